"""ResultStream: the frames of one request, in order, each once, whatever happens to the channel.

Live frames are taken from the channel as long as their numbers follow on. After a gap, a reconnect or more than the
buffer holds, the stream is *behind*: what is buffered is handed out first, the rest is read from the log at the
reader's pace, until it has caught up with the channel again.

A log can also be *rewound*: after a failover its end is missing, after a flush all of it. Then the reader has had more
than the log has, or another frame of the same number, and whoever generates it again may cut it into other frames. The
stream goes back to the beginning and hands out only what is new, which is exact because the same job always gives the
same tokens.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec

from headrace_shared.clock import mono_s
from headrace_shared.errors import ErrorCode, HeadraceError, UnavailableError
from headrace_shared.protocol.codec import ProtocolVersionError, decode_frame, encode_frame
from headrace_shared.protocol.event import TERMINAL, Event, Failed
from headrace_shared.queue.progress import Progress
from headrace_shared.queue.token_log import Head, LogPage, TokenLog

log = logging.getLogger(__name__)

_BUFFER_BYTES = 256 * 1024
_RETRY_S = 0.25
_RESTORES = 3
"""How often in a row, without a frame in between."""


class ResultStream:
    """One reader only. Safe to cancel at any await: no frame is lost by it."""

    def __init__(
        self, queue: str, request_id: str, token_log: TokenLog, on_end: Callable[["ResultStream"], None]
    ) -> None:
        self.queue = queue
        self.request_id = request_id
        self.last_seq = 0
        """Number of the last frame handed out; goes back when the log was rewound."""
        self.restore: Callable[[], Awaitable[None]] | None = None
        """Called when Redis has forgotten the request, to enqueue the same job again; without it the stream fails."""
        self.listening = False
        """Set by the hub once the channel is subscribed."""
        self._log = token_log
        self._on_end = on_end
        self._buffer: deque[tuple[int, bytes]] = deque()
        self._buffered_bytes = 0
        self._tail = 0  # number of the last frame in the buffer, or handed out
        self._tail_frame: bytes | None = None  # and its bytes; None: not known
        self._progress: Progress | None = Progress()  # None: begun in the middle, so that nobody knows
        self._restores = 0
        self._behind = False
        self._ended = False
        self._aside: list[tuple[int, bytes]] | None = None  # live frames that arrive while the log is read
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._heard_s = mono_s()

    def __aiter__(self) -> "ResultStream":
        return self

    async def __anext__(self) -> list[Event]:
        """The next frame. Waits as long as it takes, also while Redis is away."""
        while True:
            await self._fill()
            if not self._buffer:
                raise StopAsyncIteration
            if (events := self._pop()) is not None:
                return events

    async def next_frames(self) -> list[list[Event]]:
        """Every frame that is ready, at least one; [] after the end."""
        frames: list[list[Event]] = []
        while not frames:
            await self._fill()
            if not self._buffer:
                break
            while self._buffer:
                if (events := self._pop()) is not None:
                    frames.append(events)
        return frames

    async def replay_from(self, seq: int) -> None:
        """Go on with the frame after number ``seq``, from the log if need be."""
        self._progress = Progress() if seq == 0 else None
        self._go_to(seq)

    def close(self) -> None:
        """Stop listening; its reader sees the end. Talks to nobody, so it fits into any ``finally``."""
        self._end()

    # What the hub calls.

    def offer(self, seq: int, frame: bytes) -> None:
        """A frame from the channel."""
        if seq > self._tail:
            self._heard_s = mono_s()
        if self._aside is not None:
            if len(self._aside) < 1024:  # beyond that the log has to be read again anyhow
                self._aside.append((seq, frame))
        elif self._behind or self._ended or seq < self._tail:
            return
        elif seq == self._tail:
            if self._tail_frame not in (None, frame):
                self.fall_behind()
        elif seq > self._tail + 1 or self._buffered_bytes > _BUFFER_BYTES:
            self.fall_behind()
        else:
            self._push(seq, frame)
            self._wake()

    def fall_behind(self) -> None:
        """The channel cannot be trusted to have said everything: look into the log."""
        self._behind = True
        self._wake()

    def silent(self, now_s: float, for_s: float) -> bool:
        """True when the reader has waited ``for_s`` without hearing anything; starts a new silence."""
        if self._waiter is None or now_s - self._heard_s < for_s:
            return False
        self._heard_s = now_s
        return True

    def compare(self, head: Head) -> None:
        """``head`` is what the log said lately: notice what the channel should have said."""
        if head.over or head.seq != self._tail:
            self.fall_behind()

    # Inside.

    async def _fill(self) -> None:
        """Return when there is a frame in the buffer, or never will be."""
        while not self._buffer and not self._ended:
            if self._behind:
                await self._catch_up()
                continue
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _catch_up(self) -> None:
        self._aside = []
        # With the last known frame: one that differs shows that the log was rewound.
        after = self._tail if self._tail_frame is None else self._tail - 1
        try:
            page = await self._log.page(self.queue, self.request_id, after)
        except UnavailableError:
            page = None
        finally:
            aside, self._aside = self._aside, None
        if page is None:
            await asyncio.sleep(_RETRY_S)
        elif page.head.state is None and self.restore is not None and self._restores < _RESTORES:
            await self._restore(self.restore)
        elif self._was_rewound(page):
            self._go_to(0)
        elif not self._ended:
            self._take(page)
            for seq, frame in aside:
                self.offer(seq, frame)

    def _was_rewound(self, page: LogPage) -> bool:
        if self._progress is None or self._tail == 0:
            return False
        known = self._tail_frame
        return page.head.seq < self._tail or (known is not None and page.frames[:1] != [(self._tail, known)])

    def _go_to(self, seq: int) -> None:
        self._buffer.clear()
        self._buffered_bytes = 0
        self.last_seq = self._tail = seq
        self._tail_frame = None
        if self._progress is not None:
            self._progress.tell_again()
        self.fall_behind()

    async def _restore(self, restore: Callable[[], Awaitable[None]]) -> None:
        await asyncio.sleep(_RETRY_S * self._restores)
        try:
            await restore()
        except UnavailableError:
            await asyncio.sleep(_RETRY_S)
            return
        except HeadraceError as error:
            self._fail(error.message, error.code)
            return
        self._restores += 1
        log.warning("enqueued again what redis had forgotten", extra={"request_id": self.request_id})
        if self._progress is not None:
            self._go_to(0)

    def _take(self, page: LogPage) -> None:
        news = [entry for entry in page.frames if entry[0] > self._tail]
        for seq, frame in news:
            if seq != self._tail + 1:
                self._fail("a part of the result was lost")
                return
            self._push(seq, frame)
        self._behind = page.full
        if not news and (page.head.over or page.head.seq > self._tail):
            self._fail("the request or its result is no longer known")

    def _fail(self, message: str, code: ErrorCode = ErrorCode.INTERNAL) -> None:
        log.error("result stream broken", extra={"request_id": self.request_id, "reason": message})
        self._push(self._tail, encode_frame([Failed(code, message)]))

    def _push(self, seq: int, frame: bytes) -> None:
        self._buffer.append((seq, frame))
        self._buffered_bytes += len(frame)
        self._tail, self._tail_frame = seq, frame
        self._restores = 0

    def _pop(self) -> list[Event] | None:
        """The next frame; None when all of it had been handed out before."""
        seq, frame = self._buffer.popleft()
        self._buffered_bytes -= len(frame)
        self.last_seq = seq
        try:
            events = decode_frame(frame)
        except (ProtocolVersionError, msgspec.DecodeError) as error:
            log.error("undecodable frame", extra={"request_id": self.request_id, "seq": seq, "error": str(error)})
            events = [Failed(ErrorCode.INTERNAL, "a part of the result cannot be read")]
        if events and isinstance(events[-1], TERMINAL):
            self._end()
        return events if self._progress is None else self._progress.take(events) or None

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._buffer.clear()
        self._wake()
        self._on_end(self)
