"""TokenLog: reading what was said about a request. The log is the truth, the channel only the fast path."""

from collections.abc import Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from headrace_shared.queue import keys
from headrace_shared.queue.client import reaching
from headrace_shared.queue.watch import watch_of

_PAGE_FRAMES = 256


@dataclass(frozen=True, slots=True)
class Head:
    """Where a request stands; ``state`` is None when Redis does not know it."""

    state: bytes | None
    seq: int

    @property
    def over(self) -> bool:
        return self.state is None or self.state == b"D"


@dataclass(frozen=True, slots=True)
class LogPage:
    """Frames ``(seq, bytes)`` in order; ``full`` when more may follow."""

    head: Head
    frames: list[tuple[int, bytes]]
    full: bool


class TokenLog:
    """Reads logs of any queue. Every method raises UnavailableError when Redis is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.watch = watch_of(redis)

    async def page(self, queue: str, request_id: str, after: int) -> LogPage:
        """The frames with numbers above ``after``, at most one page of them."""
        async with reaching(self._redis):
            # In this order: when the head says done, the frames that follow are all there are.
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hmget(keys.request(queue, request_id), ["state", "seq"])
            pipeline.xrange(keys.token_log(queue, request_id), min=f"{after + 1}-0", count=_PAGE_FRAMES)
            (state, seq), entries = await pipeline.execute()
        frames = [(int(entry.partition(b"-")[0]), fields[b"d"]) for entry, fields in entries]
        return LogPage(Head(state, int(seq or 0)), frames, len(frames) == _PAGE_FRAMES)

    async def frames(self, queue: str, request_id: str) -> list[bytes]:
        """The whole log."""
        found: list[bytes] = []
        while True:
            page = await self.page(queue, request_id, len(found))
            found += [frame for _, frame in page.frames]
            if not page.full:
                return found

    async def heads(self, requests: Sequence[tuple[str, str]]) -> list[Head]:
        """Where each of these ``(queue, request id)`` stands, in one round trip."""
        async with reaching(self._redis):
            pipeline = self._redis.pipeline(transaction=False)
            for queue, request_id in requests:
                pipeline.hmget(keys.request(queue, request_id), ["state", "seq"])
            return [Head(state, int(seq or 0)) for state, seq in await pipeline.execute()]
