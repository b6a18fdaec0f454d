"""Streams that are in full flow while something happens to Redis, and must not show it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from queue_traffic import QUEUE, ending, finish, make_job, positions, token
from redis.asyncio import Redis

from headrace_shared.clock import mono_s
from headrace_shared.errors import UnavailableError
from headrace_shared.protocol.event import Event, Finished
from headrace_shared.queue.claims import AppendStatus, Claim, FrameOut, WorkerQueue
from headrace_shared.queue.client import connect
from headrace_shared.queue.hub import StreamHub
from headrace_shared.queue.requests import QueueLimits, RequestQueue
from headrace_shared.queue.stream import ResultStream
from headrace_shared.settings import RedisSettings

_PACE_S = 0.01
_WARM_UP = 20


@dataclass(frozen=True)
class BothEnds:
    """An API node's and a worker's ends of one queue."""

    redis: Redis
    requests: RequestQueue
    worker: WorkerQueue
    hub: StreamHub


@asynccontextmanager
async def both_ends(url: str, worker_url: str | None = None) -> AsyncIterator[BothEnds]:
    """``worker_url``: the worker reaches Redis another way, as another user."""
    redis, workers_redis = connect(RedisSettings(url=url)), connect(RedisSettings(url=worker_url or url))
    hub = StreamHub(redis)
    await hub.start()
    try:
        yield BothEnds(redis, RequestQueue(redis, QueueLimits()), WorkerQueue(workers_redis, QUEUE, "w", 60_000), hub)
    finally:
        await hub.close()
        await redis.aclose()
        await workers_redis.aclose()


async def one_request(url: str, worker_url: str | None = None, request_id: str = "r") -> None:
    """Put it in, claim it, say it, hear it."""
    async with both_ends(url, worker_url) as ends:
        stream = await ends.hub.open(QUEUE, request_id)
        await ends.requests.enqueue(make_job(request_id))
        [claim] = await ends.worker.claim(1, 10**9)
        for position in range(5):
            await ends.worker.append([FrameOut(request_id, claim.epoch, position + 1, [token(position)])])
        await finish(ends.worker, claim, 6)
        assert positions([event async for frame in stream for event in frame]) == [0, 1, 2, 3, 4]


async def hold_streams_through(ends: BothEnds, trouble: Callable[[], Awaitable[object]], count: int = 8) -> float:
    """Streams run before, during and after ``trouble``: no token may be missing, twice, or out of order.

    Returns the longest time that a reader waited for one, seconds.
    """
    streams = [await ends.hub.open(QUEUE, f"r{n}") for n in range(count)]
    for n in range(count):
        await ends.requests.enqueue(make_job(f"r{n}"))
    claims = await ends.worker.claim(count, 10**9)
    assert len(claims) == count
    warm, over = asyncio.Event(), asyncio.Event()

    async def disturb() -> None:
        await warm.wait()
        try:
            await trouble()
        finally:
            over.set()

    readers = [asyncio.create_task(_read(stream)) for stream in streams]
    talkers = [_talk(ends.worker, claim, warm, over) for claim in claims]
    said, _ = await asyncio.gather(asyncio.gather(*talkers), disturb())
    heard = [await reader for reader in readers]
    for tokens, (events, _) in zip(said, heard, strict=True):
        assert positions(events) == list(range(tokens))
        assert isinstance(ending(events), Finished)
    return max(pause_s for _, pause_s in heard)


async def _talk(worker: WorkerQueue, claim: Claim, warm: asyncio.Event, over: asyncio.Event) -> int:
    """As a worker does: what Redis has lost is said again. Returns how many tokens there were."""
    last, seq = 0, 1
    while True:
        done = seq > last and over.is_set() and last >= 2 * _WARM_UP
        try:
            if done:
                answer = await finish(worker, claim, seq)
            else:
                frame = FrameOut(claim.request_id, claim.epoch, seq, [token(seq - 1)])
                [answer] = await worker.append([frame])
        except UnavailableError:
            await asyncio.sleep(5 * _PACE_S)
            continue
        assert answer.status in (AppendStatus.OK, AppendStatus.DUPLICATE, AppendStatus.GAP), answer
        if done and answer.status is not AppendStatus.GAP:
            return seq - 1
        last, seq = max(last, answer.seq), answer.seq + 1
        if seq > _WARM_UP:
            warm.set()
        await asyncio.sleep(_PACE_S)


async def _read(stream: ResultStream) -> tuple[list[Event], float]:
    events: list[Event] = []
    longest_s, last_s = 0.0, mono_s()
    async for frame in stream:
        longest_s, last_s = max(longest_s, mono_s() - last_s), mono_s()
        events += frame
    return events, longest_s
