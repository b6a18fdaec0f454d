"""Heart: keeps the lease, the announcement and the dead workers' requests moving.

The lease is renewed only while the engine makes progress, so that a hung device loses its
requests to other workers although this process still runs. The renewal also tells what was
cancelled, should the message about it have been lost.
"""

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
from headrace_worker.service.bridge import EngineThread, StepReport
from headrace_worker.service.pump import Pump

log = logging.getLogger(__name__)

_HUNG_S = 60.0
"""A step that takes longer than this is taken for a hung device."""
_ANNOUNCE_S = 1.0


class Heart:
    """One task for the lease, one for the announcement, one that reaps."""

    def __init__(
        self,
        queue: WorkerQueue,
        presence: Presence,
        engine: EngineThread,
        pump: Pump,
        state: WorkerState,
        republish: Callable[[], Awaitable[object]],
    ) -> None:
        """``republish`` stores the card's tokenizer and template again, should Redis have lost them."""
        self._queue = queue
        self._presence = presence
        self._engine = engine
        self._pump = pump
        self._state = state
        self._republish = republish
        self._stats: SchedulerStats | None = None
        self.announced: Callable[[], dict[str, Any]] = dict
        """Further fields of the announcement, as they are then."""

    def note(self, report: StepReport) -> None:
        """Remember the engine's numbers for the next announcement."""
        self._stats = report.stats

    async def run_lease(self, lease_ms: int) -> None:
        while True:
            if self._engine.busy_s() < _HUNG_S:
                await _attempt("renewing the lease", self._renew())
            await asyncio.sleep(lease_ms / 3000)

    async def _renew(self) -> None:
        for request_id, status in (await self._queue.renew()).items():
            self._pump.give_up(request_id, status)

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
