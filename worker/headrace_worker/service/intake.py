"""Intake: claim requests while the engine has room for them, and not before."""

import asyncio
import logging
from dataclasses import astuple

from headrace_shared.errors import UnavailableError
from headrace_shared.protocol.job import Job
from headrace_shared.queue.claims import BackgroundRoom, WorkerQueue
from headrace_worker.schedule.room import Room
from headrace_worker.service.bridge import StepReport
from headrace_worker.service.pump import Pump

log = logging.getLogger(__name__)

_POLL_S = 0.25
"""How late a request is claimed at worst when its doorbell was lost."""
_MOST_PER_CLAIM = 32
_ANY_COST = 2**53


class Intake:
    """Late binding: what is not claimed can still go to a worker that is free sooner."""

    def __init__(self, queue: WorkerQueue, pump: Pump, room: Room) -> None:
        self._queue = queue
        self._pump = pump
        self._room = room
        self._tried = room
        """What was free at the last claim: without a doorbell, only more makes another one worth it."""
        self._again_s = _POLL_S
        self._underway: dict[str, Job] = {}
        """Claimed, but not yet counted in ``_room``."""
        self._wake = asyncio.Event()

    def ring(self) -> None:
        """There may be work, or room for it."""
        self._wake.set()

    def note(self, report: StepReport) -> None:
        """Learn the engine's room after a step."""
        self._room = report.room
        for run_id in (*report.added, *(run_id for run_id, _ in report.refused)):
            self._underway.pop(run_id, None)
        free = self._free()
        if any(now > before for now, before in zip(astuple(free), astuple(self._tried), strict=True)):
            self._wake.set()

    async def run(self) -> None:
        """Claim until cancelled."""
        while True:
            self._wake.clear()
            self._again_s = _POLL_S
            if not await self._claim():
                await self._pause()

    def _free(self) -> Room:
        """The engine's room, less what is on its way there."""
        # What has ended on its way never gets there.
        self._underway = {run_id: job for run_id, job in self._underway.items() if run_id in self._pump}
        slots = tokens = background_slots = background_tokens = 0
        for job in self._underway.values():
            sequences, cost = job.sequences, job.header.cost_tokens
            if not job.header.background:
                slots, tokens = slots + sequences, tokens + cost
            background_slots, background_tokens = background_slots + sequences, background_tokens + cost
        room = self._room
        return Room(
            room.slots - slots,
            room.tokens - tokens,
            room.background_slots - background_slots,
            room.background_tokens - background_tokens,
        )

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._again_s):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _claim(self) -> bool:
        """One claim; True when there may be more at once."""
        free = self._tried = self._free()
        idle = not self._pump
        if free.slots <= 0 or (free.tokens <= 0 and not idle):
            return False
        want = min(free.slots, _MOST_PER_CLAIM)
        try:
            background = BackgroundRoom(free.background_slots, free.background_tokens)
            claims = await self._queue.claim(want, free.tokens, background)
            if not claims and idle:
                # The head may cost more than all blocks together; it will never find more room than now.
                claims = await self._queue.claim(1, _ANY_COST)
        except UnavailableError as error:
            log.warning("queue unreachable", extra={"error": error.message})
            await asyncio.sleep(_POLL_S)
            return False
        self._again_s = min(self._queue.ask_again_s or _POLL_S, _POLL_S)
        for claim in claims:
            self._underway[claim.run_id] = claim.job
            self._pump.accept(claim)
        # Fewer than asked for: the queue is empty, and rings when it no longer is, or its head needs more room.
        return len(claims) == want
