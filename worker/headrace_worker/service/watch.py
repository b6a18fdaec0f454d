"""WorkerWatch: everything that is measured of one worker, and where it is shown.

The one place that its /metrics, its statistics line and its announcement to the fleet take their numbers from.
"""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from prometheus_client.metrics_core import Metric

from headrace_shared.clock import mono_s
from headrace_shared.errors import UnavailableError
from headrace_shared.queue.claims import WorkerQueue
from headrace_shared.telemetry.exposition import Exposition
from headrace_shared.telemetry.listener import Listener
from headrace_shared.telemetry.otlp_metrics import pushing_metrics
from headrace_shared.telemetry.series import THE_ENGINE
from headrace_shared.telemetry.tasks import in_background
from headrace_shared.telemetry.tracing import Tracing
from headrace_worker.engine.build import EngineSetup, EngineSetupError
from headrace_worker.schedule.scheduler import SchedulerStats
from headrace_worker.schedule.speculation.speculation import SpeculationStats
from headrace_worker.service.attempt_span import AttemptSpans
from headrace_worker.service.attempts import Attempts
from headrace_worker.service.bridge import EngineThread, StepReport
from headrace_worker.service.metrics import CACHE_LABELS, StepTallies, WorkerMetrics
from headrace_worker.service.pump import Pump
from headrace_worker.settings import WorkerSettings

log = logging.getLogger(__name__)

SERVICE = "headrace-worker"
_SHARE_EVERY_S = 1.0
_STATS_EVERY_S = 10.0
_LATELY_S = 10.0
_HUNG_S = 60.0


@dataclass(slots=True)
class _Second:
    """What was done in one second."""

    begun_s: float
    steps: int = 0
    step_s: float = 0.0
    generated: int = 0
    prompt: int = 0


class WorkerWatch:
    """Made with the worker's model; told of every step."""

    def __init__(
        self, settings: WorkerSettings, setup: EngineSetup, model: str, worker_id: str, tracing: Tracing | None
    ) -> None:
        self.metrics = WorkerMetrics()
        spans = AttemptSpans(
            tracing,
            model,
            worker_id,
            worker_times=settings.traces_worker,
            model_times=settings.traces_model,
        )
        self.attempts = Attempts(self.metrics, spans)
        self._steps = StepTallies(self.metrics, model)
        self._settings = settings
        self._model = model
        self._stats: SchedulerStats = setup.engine.stats()
        self._block_size = setup.limits.block_size
        self._cache_config = _cache_config(settings, setup)
        self._share = 0.0
        self._seconds: deque[_Second] = deque([_Second(mono_s())], maxlen=int(_LATELY_S) + 1)
        self._pump: Pump | None = None
        self._engine: EngineThread | None = None
        self._listener: Listener | None = None

    def note(self, report: StepReport) -> None:
        """A turn of the engine is over. To be called before its outputs are delivered."""
        self._stats = report.stats
        facts = report.step
        if facts is None:
            return
        now_s = mono_s()
        self.attempts.note(facts)
        generated = sum([len(output.token_ids) for output in report.outputs])
        self._steps.count(facts, generated, now_s)
        second = self._second(now_s)
        second.steps += 1
        second.step_s += facts.ended_s - facts.begun_s
        second.generated += generated
        if facts.chunks:
            second.prompt += sum(chunk.count for chunk in facts.chunks)

    @asynccontextmanager
    async def watching(self, queue: WorkerQueue, pump: Pump, engine: EngineThread) -> AsyncIterator[None]:
        """Show it all for the length of the block. Raises EngineSetupError when the port cannot be listened on."""
        self._pump, self._engine = pump, engine
        settings = self._settings
        exposition = Exposition(
            self.metrics.registry,
            [WorkerMetrics],
            [self],
            engine_series=settings.log_stats,
            before=self.metrics.settle,
        )
        async with AsyncExitStack() as stack:
            if settings.metrics_port >= 0:
                self._listener = self._listen(exposition)
                stack.callback(self._listener.close)
                log.info("metrics shown", extra={"url": self.metrics_url})
            await stack.enter_async_context(in_background(self.metrics.follow_loop()))
            await stack.enter_async_context(in_background(self._follow_queue(queue)))
            if settings.log_stats:
                await stack.enter_async_context(in_background(self._tell_statistics()))
            await stack.enter_async_context(pushing_metrics(SERVICE, exposition.collect_own))
            yield

    @property
    def metrics_url(self) -> str:
        """Where others find it; empty when it is not shown."""
        if self._listener is None:
            return ""
        host = self._settings.metrics_host
        host = socket.gethostname() if host in ("0.0.0.0", "::", "") else host  # noqa: S104 compared, not listened on
        return f"http://{f'[{host}]' if ':' in host else host}:{self._listener.port}/metrics"

    def announced(self) -> dict[str, Any]:
        """The fields of ``WorkerState`` that are measured here."""
        span_s, lately = self._lately()
        steps = sum(second.steps for second in lately)
        return {
            "tokens_per_s": round(sum(second.generated for second in lately) / span_s, 1),
            "step_ms": round(sum(second.step_s for second in lately) / steps * 1000, 2) if steps else 0.0,
            "prefix_hit_rate": round(self._hit_rate(), 4),
            "metrics_url": self.metrics_url,
        }

    def collect(self) -> Iterator[Metric]:
        """What is read when it is asked for."""
        kind, stats, engine = WorkerMetrics, self._stats, (self._model, THE_ENGINE)
        deferred = self._pump.equipping if self._pump is not None else 0
        waiting = stats.waiting + self._share
        yield kind.running.family([(engine, stats.running)])
        yield kind.waiting.family([(engine, waiting + deferred)])
        reasons = {"capacity": waiting, "deferred": deferred}
        yield kind.waiting_by_reason.family(((*engine, reason), value) for reason, value in reasons.items())
        yield kind.own_waiting.family([((self._model,), stats.waiting)])
        kinds = {"running": stats.background_running, "paused": stats.background_paused}
        yield kind.background.family(((self._model, state), value) for state, value in kinds.items())
        yield kind.given_up.family([((self._model,), stats.steps_given_up)])
        used = stats.total_blocks - stats.free_blocks
        yield kind.kv_usage.family([(engine, used / stats.total_blocks)])
        blocks = {"used": used, "cached": stats.cached_blocks, "blank": stats.free_blocks - stats.cached_blocks}
        yield kind.kv_blocks.family(((self._model, state), value) for state, value in blocks.items())
        yield kind.swapped.family([(engine, stats.swapped)])
        swap_used = stats.total_swap_blocks - stats.free_swap_blocks
        yield kind.swap_usage.family([(engine, swap_used / max(1, stats.total_swap_blocks))])
        yield kind.cache_config.family([((*engine, *self._cache_config), 1)])
        yield kind.preemptions.family([(engine, stats.preemptions)])
        yield kind.prefix_queries.family([(engine, stats.prefix_queried_tokens)])
        yield kind.prefix_hits.family([(engine, stats.prefix_hit_tokens)])
        yield kind.prefix_block_queries.family([(engine, stats.prefix_queried_tokens // self._block_size)])
        yield kind.prefix_block_hits.family([(engine, stats.prefix_hit_tokens // self._block_size)])
        guessed = stats.speculation or SpeculationStats()
        yield kind.drafts.family([(engine, guessed.drafts)])
        yield kind.draft_tokens.family([(engine, guessed.draft_tokens)])
        yield kind.accepted_tokens.family([(engine, guessed.accepted_tokens)])
        places = enumerate(guessed.accepted_per_position)
        yield kind.accepted_per_position.family(((*engine, str(place)), count) for place, count in places)
        yield kind.lease_age.family([((self._model,), mono_s() - self.metrics.lease_renewed_s)])
        yield kind.lease.family([((self._model,), self._settings.lease_ms / 1000)])

    def _listen(self, exposition: Exposition) -> Listener:
        host, port = self._settings.metrics_host, self._settings.metrics_port
        try:
            return Listener(host, port, exposition, self._ill)
        except OSError as error:
            reason = error.strerror or str(error)
            raise EngineSetupError(f"metrics_port: cannot listen on {host}:{port}: {reason}") from None

    def _ill(self) -> str | None:
        """Whether the lease is lost or the engine hangs."""
        if self._engine is not None and self._engine.busy_s() > _HUNG_S:
            return "the engine hangs in a step\n"
        if (mono_s() - self.metrics.lease_renewed_s) * 1000 > self._settings.lease_ms:
            return "the lease is over: Redis has not been reached in time\n"
        return None

    def _second(self, now_s: float) -> _Second:
        if now_s - self._seconds[-1].begun_s >= 1.0:
            self._seconds.append(_Second(now_s))
        return self._seconds[-1]

    def _lately(self) -> tuple[float, list[_Second]]:
        """The seconds of late, and how long they are together."""
        now_s = mono_s()
        lately = [second for second in self._seconds if now_s - second.begun_s < _LATELY_S]
        return max(1.0, now_s - lately[0].begun_s) if lately else 1.0, lately

    def _hit_rate(self) -> float:
        stats = self._stats
        return stats.prefix_hit_tokens / stats.prefix_queried_tokens if stats.prefix_queried_tokens else 0.0

    async def _follow_queue(self, queue: WorkerQueue) -> None:
        while True:
            try:
                self._share = await queue.waiting_per_worker()
            except UnavailableError:
                self._share = 0.0
            await asyncio.sleep(_SHARE_EVERY_S)

    async def _tell_statistics(self) -> None:
        """As long as there is something to tell, and once when there no longer is."""
        idle = True
        while True:
            await asyncio.sleep(_STATS_EVERY_S)
            span_s, lately = self._lately()
            stats = self._stats
            was_idle, idle = idle, not any(second.steps for second in lately)
            if idle and was_idle:
                continue
            log.info(
                "statistics",
                extra={
                    "prompt_tokens_per_s": round(sum(second.prompt for second in lately) / span_s, 1),
                    "generation_tokens_per_s": round(sum(second.generated for second in lately) / span_s, 1),
                    "running": stats.running,
                    "waiting": stats.waiting,
                    "queue_share": round(self._share, 1),
                    "kv_cache_percent": round(100 * (1 - stats.free_blocks / stats.total_blocks), 1),
                    "prefix_hit_percent": round(100 * self._hit_rate(), 1),
                    "preemptions": stats.preemptions,
                },
            )


def _cache_config(settings: WorkerSettings, setup: EngineSetup) -> tuple[str, ...]:
    limits = setup.limits
    values = {
        "block_size": limits.block_size,
        "num_gpu_blocks": limits.num_blocks,
        "cache_dtype": setup.cache_dtype,
        "enable_prefix_caching": limits.enable_prefix_caching,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "max_model_len": limits.max_model_len,
        "max_num_seqs": limits.max_num_seqs,
        "max_num_batched_tokens": limits.max_num_batched_tokens,
    }
    return tuple(str(values[name]) for name in CACHE_LABELS[2:])
