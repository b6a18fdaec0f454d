"""WorkerQueue: a worker's end of the queue: claim, append, give back, and take over from the dead."""

import asyncio
import logging
import secrets
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

import msgspec
from redis.asyncio import Redis

from headrace_shared.clock import mono_s
from headrace_shared.errors import ErrorCode, UnavailableError
from headrace_shared.protocol.codec import ProtocolVersionError, decode_frame, decode_job, encode_frame
from headrace_shared.protocol.event import Delta, Event, Failed, Finished
from headrace_shared.protocol.job import Job
from headrace_shared.queue import keys
from headrace_shared.queue.client import reaching
from headrace_shared.queue.scripts import Script, run_script
from headrace_shared.queue.subscriber import Subscriber
from headrace_shared.queue.token_log import TokenLog
from headrace_shared.queue.watch import watch_of

log = logging.getLogger(__name__)

_MOST_FRAMES = 128
"""Per call: a script blocks all of Redis while it runs, and this many frames take about a millisecond."""
_REAP_PER_CALL = 64
_DEADLINE = encode_frame([Failed(ErrorCode.DEADLINE_EXCEEDED, "the request's deadline passed before it was finished")])
_CANCELLED = encode_frame([Failed(ErrorCode.CANCELLED, "the request was cancelled")])
_POISONED = encode_frame([Failed(ErrorCode.POISONED, "every worker that ran this request was lost; it was given up")])


@dataclass(frozen=True, slots=True)
class Claim:
    """A request that this worker owns now. Times are milliseconds of Redis' clock."""

    request_id: str
    epoch: int
    """Goes into every frame: only the newest owner's frames are accepted. No claim ever has that of another one."""
    seq: int
    """Number of the last frame in the log; the next one is ``seq + 1``."""
    attempt: int
    priority: int
    enqueued_ms: int
    claimed_ms: int
    job: Job
    log: list[Event]
    """Everything that earlier owners said, in order; empty the first time."""
    run_id: str = field(init=False)
    """Names the request and this claim of it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "run_id", f"{self.request_id}/{self.epoch}")


class BackgroundRoom(NamedTuple):
    """What background requests may take of a claim."""

    want: int
    max_cost_tokens: int


class FrameOut(NamedTuple):
    """One frame to append; ``final`` means that its last event is terminal and the request is done with it."""

    request_id: str
    epoch: int
    seq: int
    events: Sequence[Event]
    final: bool = False
    used_tokens: int | None = None
    """Of a final frame: prompt and generated tokens, for the tenant's account; None: what Finished says, if it does."""


class AppendStatus(IntEnum):
    FENCED = 0
    """Not ours any more: drop the request, say nothing."""
    OK = 1
    CANCELLED = 2
    """Not appended: send a final frame with this number instead."""
    DUPLICATE = 3
    """It was in the log already, from a call whose reply was lost."""
    GAP = 4
    """Redis has lost frames: send again from ``Appended.seq + 1``."""
    DEADLINE = 5
    """As CANCELLED; the deadline has passed."""


class Appended(NamedTuple):
    status: AppendStatus
    seq: int
    """Number of the last frame in the log."""
    receivers: int
    """API nodes that listened; meaningful with OK."""


class Renewal(NamedTuple):
    condemned: dict[str, AppendStatus]
    """Requests of this worker that it has to end, with CANCELLED or DEADLINE: their next frame would be refused, but in
    a long prefill there is none, and the control message may have been lost."""
    listeners: dict[str, int]
    """API nodes that listen, for each request that was asked about."""


class ControlKind(StrEnum):
    WORK = "work"
    """There may be something to claim."""
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class ControlMessage:
    kind: ControlKind
    request_id: str = ""


class WorkerQueue:
    """``worker_id`` names one life of a worker: a restarted one needs a new id.

    Every method raises UnavailableError when Redis is away and may be called again: nothing is done twice.
    """

    def __init__(self, redis: Redis, queue: str, worker_id: str, lease_ms: int = 3000) -> None:
        self._redis = redis
        self._queue = queue
        self._worker_id = worker_id
        self._lease_ms = lease_ms
        self._log = TokenLog(redis)
        self._nonce = secrets.token_hex(8)
        self.ask_again_s: float | None = None
        """Set by each claim: after how many seconds to claim again, because what comes next is held for another worker."""
        self._calm_s = 0.0  # nobody is declared dead before this time

    async def claim(self, want: int, max_cost_tokens: int, background: BackgroundRoom | None = None) -> list[Claim]:
        """Take up to ``want`` requests whose costs add up to at most ``max_cost_tokens``, the first in order.

        ``background``: what background requests may take of both; None: all. When the first in order costs more than
        is left, it is waited for. Renews the lease. A job that cannot be decoded is answered with an error and not
        returned.
        """
        if want <= 0:
            return []
        least = BackgroundRoom(want, max_cost_tokens) if background is None else background
        again_ms, *rows = await self._run(
            Script.CLAIM, self._worker_id, self._nonce, want, max_cost_tokens, self._lease_ms, _DEADLINE, *least
        )
        self.ask_again_s = again_ms / 1000 if again_ms > 0 else None
        claims = [claim for row in rows if (claim := await self._read(row)) is not None]
        for claim in claims:
            watch_of(self._redis).claimed(claim.attempt)
        # Only now: had the reply or a log been lost, the same nonce would bring the same requests again.
        self._nonce = secrets.token_hex(8)
        return claims

    async def append(self, frames: Sequence[FrameOut]) -> list[Appended]:
        """Log and publish frames, as a rule those of one engine step; one answer per frame. Renews the lease.

        A final frame also ends its request, in the same instant.
        """
        answers: list[Appended] = []
        for start in range(0, len(frames), _MOST_FRAMES):
            answers += await self._append(frames[start : start + _MOST_FRAMES])
        return answers

    async def _append(self, frames: Sequence[FrameOut]) -> list[Appended]:
        args: list[bytes | str | int] = []
        for frame in frames:
            args += (frame.request_id, frame.epoch, frame.seq, _mark(frame), encode_frame(frame.events))
        flat = await self._run(Script.APPEND, self._worker_id, self._lease_ms, *args)
        answers = [Appended(AppendStatus(flat[i]), flat[i + 1], flat[i + 2]) for i in range(0, len(flat), 3)]
        watch = watch_of(self._redis)
        for status, count in Counter(flat[::3]).items():
            watch.appended(AppendStatus(status).name.lower(), count)
        return answers

    async def renew(self, silent: Sequence[str] = ()) -> Renewal:
        """Keep the lease while there is nothing to say; also tells who listens to the requests of ``silent``."""
        condemned, listeners = await self._run(Script.RENEW, self._worker_id, self._lease_ms, *silent)
        ends = {condemned[i].decode(): AppendStatus(condemned[i + 1]) for i in range(0, len(condemned), 2)}
        return Renewal(ends, dict(zip(silent, listeners, strict=True)))

    async def release(self) -> int:
        """Hand back every request this worker owns; others continue them. Returns how many."""
        return await self._reap(self._worker_id)

    async def reap(self) -> int:
        """Put the requests of workers whose lease has ended back into the queue, and end those past their deadline.

        Safe to run from every worker at any time. Returns how many were put back. A request that has cost too many
        workers is answered with ``Failed(POISONED)`` and kept in the dead-letter stream.
        """
        # After an outage everybody's lease has ended; give them the time of one lease to come back.
        if mono_s() < self._calm_s:
            return 0
        put_back = await self._reap("")
        watch_of(self._redis).reaped(put_back)
        return put_back

    async def waiting_per_worker(self) -> float:
        """What waits in the queue, in equal shares of the workers that read it."""
        async with reaching(self._redis):
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hget(keys.counters(self._queue), "requests")
            pipeline.zcard(keys.workers(self._queue))
            waiting, workers = await pipeline.execute()
        return max(0, int(waiting or 0)) / max(1, int(workers))

    async def control(self) -> AsyncIterator[ControlMessage]:
        """What others want from this worker, until the iterator is closed. Begins with WORK.

        Messages can be lost with the connection: WORK is repeated after a reconnect, and a lost cancellation shows
        as ``AppendStatus.CANCELLED``.
        """
        bell = keys.bell_channel(self._queue)
        control = keys.control_channel(self._queue, self._worker_id)
        cancels: deque[str] = deque()
        work = True
        wake = asyncio.Event()

        def on_message(channel: bytes, payload: bytes) -> None:
            nonlocal work
            if channel == bell:
                work = True
            else:
                cancels.append(payload.decode())
            wake.set()

        def on_subscribed(channel: bytes) -> None:
            on_message(bell, b"")

        subscriber = Subscriber(self._redis, on_message, on_subscribed)
        subscriber.want(bell, control)
        await subscriber.start()
        try:
            while True:
                while cancels:
                    yield ControlMessage(ControlKind.CANCEL, cancels.popleft())
                if work:
                    work = False
                    yield ControlMessage(ControlKind.WORK)
                else:
                    await wake.wait()
                    wake.clear()
        finally:
            await subscriber.close()

    async def _run(self, script: Script, *args: bytes | str | int) -> Any:
        try:
            return await run_script(self._redis, script, keys.base(self._queue), *args)
        except UnavailableError:
            self._calm_s = mono_s() + self._lease_ms / 1000
            raise

    async def _reap(self, victim: str) -> int:
        put_back, more = 0, 1
        while more:
            count, more = await self._run(
                Script.REAP, self._worker_id, self._lease_ms, victim, _REAP_PER_CALL, _POISONED, _CANCELLED, _DEADLINE
            )
            put_back += count
        return put_back

    async def _read(self, row: list[bytes]) -> Claim | None:
        request_id, epoch, seq = row[0].decode(), int(row[1]), int(row[2])
        frames = await self._log.frames(self._queue, request_id) if seq else []
        try:
            job = decode_job(row[7])
            events = [event for frame in frames for event in decode_frame(frame)]
        except (ProtocolVersionError, msgspec.DecodeError) as error:
            log.error("undecodable request", extra={"request_id": request_id, "error": str(error)})
            failed = Failed(ErrorCode.INTERNAL, "the worker cannot read this request")
            await self.append([FrameOut(request_id, epoch, seq + 1, [failed], final=True)])
            return None
        priority, enqueued_ms, claimed_ms, attempt = map(int, row[3:7])
        return Claim(request_id, epoch, seq, attempt, priority, enqueued_ms, claimed_ms, job, events)


def _mark(frame: FrameOut) -> str:
    """What append.lua must know of a frame without reading it."""
    if not frame.final:
        for event in frame.events:
            if isinstance(event, Delta):
                return "t"
        return "s"
    last = frame.events[-1] if frame.events else None
    used = frame.used_tokens
    if not isinstance(last, Finished):
        return f"x{'' if used is None else used}"
    return f"f{last.prompt_tokens + last.completion_tokens if used is None else used}"
