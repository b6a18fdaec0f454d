"""Identity: one of many workers in a process, with all that a worker says to Redis and no engine."""

import asyncio
import random
import secrets
import time
from collections.abc import Sequence
from functools import cache

from redis.asyncio import Redis

from headrace_shared.model_card import ModelCard
from headrace_shared.protocol.event import Delta, Event, Finished, FinishReason, Started
from headrace_shared.queue.claims import AppendStatus, Claim, ControlKind, FrameOut, WorkerQueue
from headrace_shared.queue.presence import Presence, WorkerState

LEASE_MS = 3000
STEP_S = 0.1
SLOTS = 8
POLL_S = 0.25


@cache
def card() -> ModelCard:
    return ModelCard(name="many", max_model_len=1024, vocab_size=1024, tokenizer="0" * 64)


def deltas(events: Sequence[Event]) -> list[int]:
    """The token ids that were said, in order."""
    return [token for event in events if isinstance(event, Delta) for token in event.token_ids]


class Identity:
    """Beats, announces, reaps, listens and claims as a worker process does; its tokens are 0, 1, 2 ..."""

    def __init__(self, redis: Redis) -> None:
        self.waits_ms: list[int] = []
        self.appends_ms: list[float] = []
        self._id = f"w-{secrets.token_hex(6)}"
        self._queue = WorkerQueue(redis, card().queue, self._id, LEASE_MS)
        self._presence = Presence(redis)
        self._running: dict[str, Claim] = {}
        self._said: dict[str, int] = {}
        self._wake = asyncio.Event()

    async def run(self) -> None:
        await asyncio.sleep(random.uniform(0, 1))  # a fleet does not start in one moment
        async with asyncio.TaskGroup() as group:
            for work in (self._beat(), self._announce(), self._reap(), self._listen(), self._claim(), self._step()):
                group.create_task(work)

    async def _beat(self) -> None:
        while True:
            await self._queue.renew()
            await asyncio.sleep(LEASE_MS / 3000)

    async def _announce(self) -> None:
        state = WorkerState(worker_id=self._id, queue=card().queue, card_digest=card().digest, state="ready")
        while True:
            await self._presence.announce(card(), state, LEASE_MS)
            await asyncio.sleep(1.0)

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(random.uniform(0.5, 1.5))
            await self._queue.reap()

    async def _listen(self) -> None:
        async for message in self._queue.control():
            if message.kind is ControlKind.WORK:
                self._wake.set()

    async def _claim(self) -> None:
        while True:
            self._wake.clear()
            free = SLOTS - len(self._running)
            claims = await self._queue.claim(free, 10**9) if free else []
            for claim in claims:
                self.waits_ms.append(claim.claimed_ms - claim.enqueued_ms)
                self._running[claim.request_id] = claim
                self._said[claim.request_id] = 0
            if not claims or len(claims) < free:
                try:
                    async with asyncio.timeout(POLL_S):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    async def _step(self) -> None:
        while True:
            await asyncio.sleep(STEP_S)
            frames = [self._frame(claim) for claim in self._running.values()]
            if not frames:
                continue
            began_s = time.perf_counter()
            answers = await self._queue.append(frames)
            self.appends_ms.append((time.perf_counter() - began_s) * 1000)
            assert {answer.status for answer in answers} == {AppendStatus.OK}
            for frame in frames:
                if frame.final:
                    del self._running[frame.request_id]

    def _frame(self, claim: Claim) -> FrameOut:
        position = self._said[claim.request_id]
        self._said[claim.request_id] = position + 1
        last = position + 1 == claim.job.stopping.max_tokens
        first: list[Event] = [Started(self._id)] if position == 0 else []
        delta = Delta(0, [position], " token", None, FinishReason.LENGTH if last else None)
        end: list[Event] = [Finished(0, position + 1)] if last else []
        return FrameOut(claim.request_id, claim.epoch, position + 1, [*first, delta, *end], last)
