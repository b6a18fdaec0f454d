"""Redis forgets the end of a log, or all of it, while somebody reads: the reader has every token once."""

import asyncio

import pytest
from eventually import eventually
from queue_traffic import FINISHED, QUEUE, MakeWorker, ending, finish, make_job, positions, speak, token
from redis.asyncio import Redis

from headrace_shared.errors import ErrorCode, OverloadedError, UnavailableError
from headrace_shared.protocol.event import Delta, Event, Failed, Finished, Started
from headrace_shared.queue import keys
from headrace_shared.queue.claims import Claim, FrameOut, WorkerQueue
from headrace_shared.queue.hub import StreamHub
from headrace_shared.queue.requests import RequestQueue
from headrace_shared.queue.stream import ResultStream

ALL = 10**9
TOKENS = 30


async def say(worker: WorkerQueue, claim: Claim, size: int, start: int = 0, stop: int = TOKENS) -> int:
    """Say these positions in frames of ``size`` tokens; returns the number of the last frame."""
    seq = claim.seq + 1
    await worker.append([FrameOut(claim.request_id, claim.epoch, seq, [Started(f"by {size}", claim.attempt)])])
    for first in range(start, stop, size):
        ids = list(range(first, min(first + size, stop)))
        seq += 1
        events: list[Event] = [Delta(0, ids, "".join(f"t{n} " for n in ids))]
        await worker.append([FrameOut(claim.request_id, claim.epoch, seq, events)])
    return seq


async def begun(stream: ResultStream, requests: RequestQueue, worker: WorkerQueue, tokens: int = 10) -> list[Event]:
    """A request of whose answer so many tokens were said, one per frame, and read."""
    await requests.enqueue(make_job("r"))
    [claim] = await worker.claim(1, ALL)
    await say(worker, claim, 1, stop=tokens)
    had: list[Event] = []
    while len(positions(had)) < tokens:
        had += await anext(stream)
    return had


async def read_on(stream: ResultStream) -> list[Event]:
    return [event async for frame in stream for event in frame]


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def whole(events: list[Event]) -> None:
    assert positions(events) == list(range(TOKENS))
    assert text(events) == "".join(f"t{n} " for n in range(TOKENS))
    assert isinstance(ending(events), Finished)


@pytest.mark.parametrize("size", [1, 7])
async def test_an_answer_that_redis_has_forgotten_is_generated_again_and_goes_on_where_it_was(
    redis: Redis, hub: StreamHub, requests: RequestQueue, make_worker: MakeWorker, size: int
) -> None:
    streams = [await hub.open(QUEUE, "r") for _ in range(2)]

    async def restore() -> None:
        await requests.enqueue(make_job("r"))

    for stream in streams:
        stream.restore = restore
    had = await begun(streams[0], requests, make_worker("first"))
    # The other one has read nothing yet: what it holds in its buffer counts for nothing.
    await redis.flushall()
    readers = [asyncio.create_task(read_on(stream)) for stream in streams]
    heir = make_worker("heir")

    async def waiting() -> bool:
        return (await requests.depth(QUEUE)).queued_requests == 1

    await eventually(waiting, within_s=10)
    [claim] = await heir.claim(1, ALL)
    await finish(heir, claim, await say(heir, claim, size) + 1)
    first, second = await asyncio.wait_for(asyncio.gather(*readers), 10)
    whole(had + first)
    whole(second)


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("kept", [0, 4])
async def test_an_answer_whose_end_was_lost_goes_on_when_another_worker_has_told_it_again(
    redis: Redis, hub: StreamHub, requests: RequestQueue, make_worker: MakeWorker, size: int, kept: int
) -> None:
    """As after a failover to a replica that lags: the log is shorter, and its owner is lost before it notices."""
    stream = await hub.open(QUEUE, "r")
    first, heir = make_worker("first"), make_worker("heir")
    had = await begun(stream, requests, first)
    key = keys.token_log(QUEUE, "r")
    told = await redis.xrange(key)
    await redis.delete(key)
    for entry, fields in told[:kept]:
        await redis.xadd(key, fields, id=entry)
    await redis.hset(keys.request(QUEUE, "r"), "seq", str(kept))  # type: ignore[misc]
    await first.release()
    [claim] = await heir.claim(1, ALL)
    said = len(positions(claim.log))
    await finish(heir, claim, await say(heir, claim, size, start=said) + 1)
    await redis.client_kill_filter(_type="pubsub")
    whole(had + await asyncio.wait_for(read_on(stream), 10))


async def test_without_anybody_to_restore_it_a_forgotten_request_fails(
    redis: Redis, hub: StreamHub, requests: RequestQueue, worker: WorkerQueue
) -> None:
    stream = await hub.open(QUEUE, "r")
    await begun(stream, requests, worker)
    await redis.flushall()
    stream.fall_behind()
    assert isinstance(ending(await asyncio.wait_for(read_on(stream), 10)), Failed)


async def test_restoring_is_tried_again_while_redis_is_away_but_not_for_ever(hub: StreamHub) -> None:
    calls = 0

    async def restore() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise UnavailableError("away")

    stream = await hub.open(QUEUE, "never there")
    stream.restore = restore
    stream.fall_behind()
    assert isinstance(ending(await asyncio.wait_for(read_on(stream), 10)), Failed)
    assert calls == 4


async def test_a_restore_that_is_refused_ends_the_stream_with_the_reason(hub: StreamHub) -> None:
    async def restore() -> None:
        raise OverloadedError("the queue is full")

    stream = await hub.open(QUEUE, "r")
    stream.restore = restore
    stream.fall_behind()
    events = await asyncio.wait_for(read_on(stream), 10)
    assert events == [Failed(ErrorCode.OVERLOADED, "the queue is full")]


async def test_a_resent_frame_is_no_reason_to_read_again(
    hub: StreamHub, requests: RequestQueue, worker: WorkerQueue, redis: Redis
) -> None:
    stream = await hub.open(QUEUE, "r")
    await requests.enqueue(make_job("r"))
    [claim] = await worker.claim(1, ALL)
    await speak(worker, claim, 0, 1)
    await worker.append([FrameOut("r", claim.epoch, 3, [FINISHED], final=True)])
    assert await read_on(stream) == [token(0), token(1), FINISHED]
