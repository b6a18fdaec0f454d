"""FleetView: models, workers and lanes as they are now, read in the background.

The one place that gauges, a console and ``top`` take their numbers from, so that these agree, and that no scrape ever
waits for Redis.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from prometheus_client.metrics_core import Metric

from headrace_api.directory import ListedModel, ModelDirectory
from headrace_api.metrics import Metrics
from headrace_api.scale import desired_workers
from headrace_shared.clock import mono_s, wall_ms
from headrace_shared.errors import UnavailableError
from headrace_shared.model_card import ModelCard
from headrace_shared.queue.batch_book import OVER, BatchBook
from headrace_shared.queue.presence import WorkerState
from headrace_shared.queue.requests import RequestQueue
from headrace_shared.queue.script_load import ScriptLoad
from headrace_shared.queue.status import Backlog, Lane, Share, Survey
from headrace_shared.queue.webhook_book import WebhookOutcome
from headrace_shared.telemetry.series import Observed

log = logging.getLogger(__name__)

_REFRESH_S = 2.0
_SCRIPTS_S = 10.0
_MOST_DOWN = 30
"""Of the queues of a day, the latest: a fleet that changes its cards all the time has many."""
NAMED_TENANTS = 10
"""All others are one: tenants are named by clients, and series must not be."""
OTHER_TENANTS = "other"
DRAIN_TARGET_S = 30.0
"""As ``/autoscale`` has it by default."""
_BANDS: tuple[tuple[float, str], ...] = (
    (-10, "below -10"),
    (0, "-10 to -1"),
    (1, "0"),
    (11, "1 to 10"),
    (float("inf"), "above 10"),
)


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model."""

    name: str
    queue: str
    workers: tuple[WorkerState, ...]
    slots: int
    backlog: Backlog
    by_priority: Mapping[int, Lane]
    by_tenant: Mapping[str, Share]
    """Of those with most requests; the rest together is ``other``."""
    dead_letters: int
    desired_workers: int
    leases_ms: Mapping[str, int]
    """What is left of each worker's lease."""
    up: bool
    """Whether it can be asked for."""

    def by_band(self) -> dict[str, Share]:
        """What waits, by bands of priorities: any number of priorities makes five of them."""
        bands: dict[str, Share] = {}
        for priority, share in self.by_priority.items():
            name = next(name for end, name in _BANDS if priority < end)
            known = bands.get(name, Share(0, 0))
            bands[name] = Share(known.requests + share.requests, known.tokens + share.tokens)
        return bands


@dataclass(frozen=True, slots=True)
class FleetSnapshot:
    """``taken_ms`` is wall clock; 0: never."""

    taken_ms: int = 0
    redis: bool = False
    conflicts: int = 0
    models: tuple[ModelView, ...] = field(default=())
    open_batches: int = 0
    batch_totals: Mapping[str, int] = field(default_factory=dict)
    """As ``BatchBook.totals``."""
    scripts: ScriptLoad | None = None
    """None: Redis does not tell."""


class FleetView:
    """Refreshed every two seconds. While Redis is away the snapshot says so, and keeps what was known."""

    def __init__(self, queue: RequestQueue, directory: ModelDirectory, batches: BatchBook) -> None:
        self._queue = queue
        self._batches = batches
        self._directory = directory
        self._scripts: ScriptLoad | None = None
        self._scripts_read_s = -_SCRIPTS_S
        self._task: asyncio.Task[None] | None = None
        self.snapshot = FleetSnapshot()

    async def start(self) -> None:
        """Look once, then go on looking. Does not fail when Redis is away."""
        await self._look()
        self._task = asyncio.create_task(self._follow(), name="fleet-view")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH_S)
            await self._look()

    async def _look(self) -> None:
        try:
            await self._refresh()
        except UnavailableError:
            self.snapshot = replace(self.snapshot, redis=False)
        except Exception:
            log.exception("the fleet's state cannot be refreshed")

    async def _refresh(self) -> None:
        state = self._directory.state()
        listed = {entry.model.card.digest: entry for entry in state.models}
        up = [await self._view(entry.model.card, entry) for entry in listed.values()]
        models = (*up, *await self._down({model.name for model in up}))
        conflicts = sum(bool(entry.conflict) for entry in state.models)
        if mono_s() - self._scripts_read_s >= _SCRIPTS_S:
            self._scripts = await self._queue.script_load()
            self._scripts_read_s = mono_s()
        batches = await self._batches.open_count(), await self._batches.totals()
        self.snapshot = FleetSnapshot(wall_ms(), state.redis, conflicts, models, *batches, self._scripts)

    async def _down(self, up: set[str]) -> list[ModelView]:
        """Models without a ready worker that somebody waits for, or that had one lately; one of each name."""
        found: dict[str, ModelView] = {}
        for queue in (await self._directory.queues())[-_MOST_DOWN:]:
            card = await self._directory.card_of(queue)
            if card is None or card.name in up:
                continue
            backlog = await self._queue.backlog(queue)
            if backlog.queued_requests or (card.name not in found and self._directory.seen_lately(card.name)):
                found[card.name] = await self._view(card)
        return list(found.values())

    async def _view(self, card: ModelCard, listed: ListedModel | None = None) -> ModelView:
        """``listed`` None: no worker of it is ready."""
        backlog = await self._queue.backlog(card.queue)
        survey = await self._queue.survey(card.queue, NAMED_TENANTS)
        return ModelView(
            name=card.name,
            queue=card.queue,
            workers=listed.workers if listed is not None else (),
            slots=listed.slots if listed is not None else 0,
            backlog=backlog,
            by_priority=survey.by_priority,
            by_tenant=_with_the_others(survey, backlog),
            dead_letters=survey.dead_letters,
            desired_workers=desired_workers(backlog, listed, DRAIN_TARGET_S),
            leases_ms=listed.leases_ms if listed is not None else {},
            up=listed is not None,
        )


class FleetGauges:
    """A view as Prometheus wants it."""

    def __init__(self, view: FleetView) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        now = self._view.snapshot
        yield Metrics.redis_up.family([((), float(now.redis))])
        yield Metrics.models.family([((), sum(model.up for model in now.models))])
        yield Metrics.card_conflicts.family([((), now.conflicts)])
        if now.scripts is not None:
            yield Metrics.script_calls.family([((), now.scripts.calls)])
            yield Metrics.script_seconds.family([((), now.scripts.seconds)])
        for series, value in _PER_MODEL.items():
            yield series.family(((model.name,), value(model)) for model in now.models)
        yield Metrics.workers.family(
            ((model.name, state), sum(worker.state == state for worker in model.workers))
            for model in now.models
            for state in ("starting", "ready", "draining")
        )
        bands = [((model.name, band), share) for model in now.models for band, share in model.by_band().items()]
        yield Metrics.queued_by_priority.family((labels, share.requests) for labels, share in bands)
        yield Metrics.tokens_by_priority.family((labels, share.tokens) for labels, share in bands)
        tenants = [((model.name, name), share) for model in now.models for name, share in model.by_tenant.items()]
        yield Metrics.queued_by_tenant.family((labels, share.requests) for labels, share in tenants)
        yield Metrics.tokens_by_tenant.family((labels, share.tokens) for labels, share in tenants)
        yield Metrics.open_batches.family([((), now.open_batches)])
        totals = now.batch_totals
        yield Metrics.ended_batches.family(((status.value,), totals.get(status, 0)) for status in sorted(OVER))
        yield Metrics.batch_items.family(((name,), totals.get(f"{name}_items", 0)) for name in ("completed", "failed"))
        kinds = ("input", "cached", "output", "reasoning")
        yield Metrics.batch_tokens.family(((kind,), totals.get(f"{kind}_tokens", 0)) for kind in kinds)
        yield Metrics.webhook_deliveries.family(((each,), totals.get(f"{each}_webhooks", 0)) for each in WebhookOutcome)


_PER_MODEL: dict[Observed, Callable[[ModelView], Any]] = {
    Metrics.slots: lambda model: model.slots,
    Metrics.queued_requests: lambda model: model.backlog.queued_requests,
    Metrics.queued_tokens: lambda model: model.backlog.queued_tokens,
    Metrics.queue_running: lambda model: model.backlog.running,
    Metrics.queue_oldest: lambda model: model.backlog.oldest_ms / 1000,
    Metrics.drain_rate: lambda model: model.backlog.tokens_per_s or 0,
    Metrics.dead_letters: lambda model: model.dead_letters,
    Metrics.desired_workers: lambda model: model.desired_workers,
}


def _with_the_others(survey: Survey, backlog: Backlog) -> dict[str, Share]:
    named = dict(survey.by_tenant)
    requests = backlog.queued_requests - sum(share.requests for share in named.values())
    tokens = backlog.queued_tokens - sum(share.tokens for share in named.values())
    if requests > 0:
        named[OTHER_TENANTS] = Share(requests, max(tokens, 0))
    return named
