"""Outbox: events of running requests, on their way into the token log.

Of each request one call's frames are under way at a time; what the engine produces meanwhile is merged into
the next one, so a slow Redis makes frames larger instead of a queue longer. Several calls may be under way, for
different requests: those that a step has told first need not wait for the others. Frames are numbered here, kept
until the request ends, and sent again after a failure: the log ignores what it already has.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from headrace_shared.clock import mono_s
from headrace_shared.errors import UnavailableError
from headrace_shared.protocol.event import Event, Failed, Finished
from headrace_shared.queue.claims import Appended, AppendStatus, Claim, FrameOut, WorkerQueue

log = logging.getLogger(__name__)

_SENDERS = 4
_RETRY_FIRST_S = 0.05
_RETRY_MOST_S = 1.0


@dataclass(slots=True)
class _Stream:
    claim: Claim
    frames: list[FrameOut] = field(default_factory=list)
    """Numbered frames of this attempt, the first one ``claim.seq + 1``."""
    confirmed: int = 0
    """How many of them the log is known to have."""
    pending: list[Event] = field(default_factory=list)
    under_way: bool = False
    final: bool = False
    used_tokens: int | None = None
    spoke: bool = False
    """Whether the log has taken a frame since ``Outbox.silent`` was asked last."""
    unheard_since_s: float | None = None
    """Since when nobody was found to listen, by a frame or by a beat without one."""


class Outbox:
    """Numbers, batches and sends frames; tells of requests that are no longer wanted from us.

    ``on_lost(request_id, status)`` is called when the log refuses a frame: another worker owns the
    request, it was cancelled, or its deadline has passed. The stream stays open in the latter two
    cases, for the closing frame. ``on_unheard(request_id)`` is called when for
    ``orphan_grace_s`` nobody was found to listen, by the frames or, where there were none, by the
    beats; a detached request needs nobody.
    """

    def __init__(
        self,
        queue: WorkerQueue,
        on_lost: Callable[[str, AppendStatus], None],
        on_unheard: Callable[[str], None],
        orphan_grace_s: float,
    ) -> None:
        self._queue = queue
        self._on_lost = on_lost
        self._on_unheard = on_unheard
        self._orphan_grace_s = orphan_grace_s
        self._streams: dict[str, _Stream] = {}
        self._dirty: dict[str, None] = {}
        """Requests that have something to send and nothing under way."""
        self._bell = asyncio.Semaphore(0)
        """Rung once for each time that there is something to send again: it wakes one sender."""
        self._sending = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def open(self, claim: Claim) -> None:
        self._streams[claim.request_id] = _Stream(claim)

    def put(self, request_id: str, events: list[Event]) -> None:
        """Add events to a request's next frame. Unknown and ended requests are ignored."""
        stream = self._streams.get(request_id)
        if stream is None or stream.final:
            return
        stream.pending.extend(events)
        self._idle.clear()
        if not stream.under_way:
            if not self._dirty:
                self._bell.release()
            self._dirty[request_id] = None

    def end(self, request_id: str, closing: Finished | Failed, used_tokens: int | None) -> None:
        """Add a request's last event, after which its stream is forgotten as soon as the log has it.

        ``used_tokens`` is what its tenant is charged for; None: what was said when it was ended before.
        """
        stream = self._streams.get(request_id)
        if stream is None or stream.final:
            return
        if used_tokens is not None:
            stream.used_tokens = used_tokens
        self.put(request_id, [closing])
        stream.final = True

    def close(self, request_id: str) -> None:
        """Forget a request; its unsent events are dropped."""
        self._streams.pop(request_id, None)
        self._dirty.pop(request_id, None)

    def silent(self) -> list[str]:
        """Requests that need a listener and have not found out since the last call whether they have one."""
        silent = [request_id for request_id, stream in self._streams.items() if _needs_asking(stream)]
        for stream in self._streams.values():
            stream.spoke = False
        return silent

    def hear(self, listeners: dict[str, int]) -> None:
        """Learn how many listen to each of these requests."""
        for request_id, count in listeners.items():
            stream = self._streams.get(request_id)
            if stream is not None and not stream.final:
                self._note_listeners(stream, count)

    def forgive_silence(self) -> None:
        """Redis was away: listeners have lost their connections too, and need a moment to come back."""
        for stream in self._streams.values():
            stream.unheard_since_s = None

    async def drained(self) -> None:
        """Wait until everything put so far has been answered by the log."""
        await self._idle.wait()

    async def run(self) -> None:
        """Send until cancelled."""
        await asyncio.gather(*(self._send() for _ in range(_SENDERS)))

    async def _send(self) -> None:
        while True:
            await self._bell.acquire()
            self._sending += 1
            while frames := self._next_batch():
                self._settle(frames, await self._append(frames))
            self._sending -= 1
            if not self._sending:
                self._idle.set()

    def _next_batch(self) -> list[FrameOut]:
        batch: list[FrameOut] = []
        for request_id in self._dirty:
            stream = self._streams[request_id]
            if stream.pending:
                claim = stream.claim
                seq = claim.seq + len(stream.frames) + 1
                used = stream.used_tokens if stream.final else None
                stream.frames.append(FrameOut(request_id, claim.epoch, seq, stream.pending, stream.final, used))
                stream.pending = []
            stream.under_way = True
            batch.extend(stream.frames[stream.confirmed :])
        self._dirty.clear()
        return batch

    async def _append(self, frames: list[FrameOut]) -> list[Appended]:
        delay = _RETRY_FIRST_S
        while True:
            try:
                return await self._queue.append(frames)
            except UnavailableError as error:
                log.warning(
                    "token log unreachable, frames are kept", extra={"error": error.message, "frames": len(frames)}
                )
                self.forgive_silence()
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RETRY_MOST_S)

    def _settle(self, frames: list[FrameOut], answers: list[Appended]) -> None:
        for frame, answer in zip(frames, answers, strict=True):
            status = answer.status
            stream = self._streams.get(frame.request_id)
            if stream is None or stream.claim.epoch != frame.epoch:
                continue
            stream.under_way = False
            if stream.pending:
                self._dirty[frame.request_id] = None
            if status in (AppendStatus.OK, AppendStatus.DUPLICATE):
                stream.confirmed = max(stream.confirmed, frame.seq - stream.claim.seq)
                if frame.final:
                    self.close(frame.request_id)
                elif status is AppendStatus.OK:
                    stream.spoke = True
                    self._note_listeners(stream, answer.receivers)
            elif status is AppendStatus.GAP:
                # The log went back, as after a failover: send what it lost again.
                stream.confirmed = max(0, answer.seq - stream.claim.seq)
                self._dirty[frame.request_id] = None
            elif status is AppendStatus.FENCED:
                self.close(frame.request_id)
                self._on_lost(frame.request_id, status)
            else:
                self._renumber_from(stream, frame)
                self._on_lost(frame.request_id, status)

    def _renumber_from(self, stream: _Stream, refused: FrameOut) -> None:
        """Take a refused frame back: the closing frame that follows gets its number."""
        del stream.frames[refused.seq - stream.claim.seq - 1 :]
        stream.pending.clear()
        stream.final = False

    def _note_listeners(self, stream: _Stream, receivers: int) -> None:
        if receivers or stream.claim.job.header.detached:
            stream.unheard_since_s = None
        elif stream.unheard_since_s is None:
            stream.unheard_since_s = mono_s()
        elif mono_s() - stream.unheard_since_s >= self._orphan_grace_s:
            self._on_unheard(stream.claim.request_id)


def _needs_asking(stream: _Stream) -> bool:
    return not (stream.spoke or stream.final or stream.claim.job.header.detached)
