"""Heart: keeps the announcement and the dead workers' requests moving."""

import asyncio
import logging
import os
import random
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from headrace_shared.clock import wall_ms
from headrace_shared.errors import UnavailableError
from headrace_shared.model_card import ModelCard
from headrace_shared.queue.claims import WorkerQueue
from headrace_shared.queue.presence import Presence, WorkerState
from headrace_worker.schedule.scheduler import SchedulerStats
from headrace_worker.service.bridge import StepReport

log = logging.getLogger(__name__)

_ANNOUNCE_S = 1.0


class Heart:
    """One task for the announcement, one that reaps."""

    def __init__(
        self,
        queue: WorkerQueue,
        presence: Presence,
        state: WorkerState,
        republish: Callable[[], Awaitable[object]],
    ) -> None:
        """``republish`` stores the card's tokenizer and template again, should Redis have lost them."""
        self._queue = queue
        self._presence = presence
        self._state = state
        self._republish = republish
        self._stats: SchedulerStats | None = None
        self.announced: Callable[[], dict[str, Any]] = dict
        """Further fields of the announcement, as they are then."""

    def note(self, report: StepReport) -> None:
        """Remember the engine's numbers for the next announcement."""
        self._stats = report.stats

    async def run_announcement(self, card: ModelCard, lease_ms: int) -> None:
        while True:
            await _attempt("announcing", self._announce(card, lease_ms))
            await asyncio.sleep(min(_ANNOUNCE_S, lease_ms / 3000))

    async def drain(self, card: ModelCard, lease_ms: int) -> None:
        """Tell everybody that this worker takes no more requests."""
        self._state = msgspec.structs.replace(self._state, state="draining")
        await _attempt("announcing", self._announce(card, lease_ms))

    async def _announce(self, card: ModelCard, lease_ms: int) -> None:
        state = msgspec.structs.replace(self._state, **self.announced())
        if (stats := self._stats) is not None:
            state = msgspec.structs.replace(
                state, kv_blocks_free=stats.free_blocks, running=stats.running, waiting=stats.waiting
            )
        if await self._presence.announce(card, state, lease_ms):
            await self._republish()

    async def run_reaper(self) -> None:
        """Any worker may free a dead one's requests; jitter keeps them from doing it together."""
        while True:
            await asyncio.sleep(random.uniform(0.5, 1.5))  # noqa: S311 jitter, no secret
            await _attempt("reaping", self._queue.reap())


def starting_state(worker_id: str, card: ModelCard, stats: SchedulerStats, max_num_seqs: int) -> WorkerState:
    """How a worker describes itself once its model is loaded."""
    return WorkerState(
        worker_id=worker_id,
        queue=card.queue,
        card_digest=card.digest,
        state="ready",
        host=socket.gethostname(),
        pid=os.getpid(),
        started_ms=wall_ms(),
        kv_blocks_total=stats.total_blocks,
        kv_blocks_free=stats.free_blocks,
        running=0,
        waiting=0,
        max_num_seqs=max_num_seqs,
    )


async def _attempt(what: str, call: Awaitable[object]) -> None:
    try:
        await call
    except UnavailableError as error:
        log.warning("Redis unreachable", extra={"while": what, "error": error.message})
