"""A reader's view of a request: every frame, in order, once, whatever the channel does."""

import asyncio
import contextlib
import time

import pytest
from queue_traffic import FINISHED, QUEUE, MakeWorker, ending, finish, make_job, positions, serve, speak, token
from redis.asyncio import Redis

from headrace_shared.errors import ErrorCode
from headrace_shared.protocol.codec import encode_frame
from headrace_shared.protocol.event import Event, Failed, Finished
from headrace_shared.queue import keys
from headrace_shared.queue.claims import Claim, FrameOut, WorkerQueue
from headrace_shared.queue.hub import StreamHub
from headrace_shared.queue.requests import RequestQueue
from headrace_shared.queue.stream import ResultStream

ALL = 10**9


async def begin(requests: RequestQueue, worker: WorkerQueue, request_id: str = "r") -> Claim:
    await requests.enqueue(make_job(request_id))
    [claim] = await worker.claim(1, ALL)
    return claim


async def read(stream: ResultStream) -> list[Event]:
    return [event async for frame in stream for event in frame]


async def subscribers(redis: Redis, request_id: str = "r") -> int:
    [(_, count)] = await redis.pubsub_shardnumsub(keys.token_channel(QUEUE, request_id))
    return int(count)


async def log_silently(redis: Redis, seq: int, *events: Event) -> None:
    """A frame whose message is lost on the way: it is in the log, but was not heard."""
    await redis.xadd(keys.token_log(QUEUE, "r"), {"d": encode_frame(events)}, id=f"{seq}-0")
    await redis.hset(keys.request(QUEUE, "r"), "seq", str(seq))  # type: ignore[misc]


async def test_the_subscription_stands_before_open_returns(hub: StreamHub, redis: Redis) -> None:
    await hub.open(QUEUE, "r")
    assert await subscribers(redis) == 1


async def test_frames_arrive_one_by_one_as_they_are_said(
    hub: StreamHub, requests: RequestQueue, worker: WorkerQueue
) -> None:
    stream = await hub.open(QUEUE, "r")
    claim = await begin(requests, worker)
    for position in range(5):
        [answer] = await speak(worker, claim, position, first_seq=position + 1)
        assert answer.receivers == 1
        assert await asyncio.wait_for(anext(stream), 1) == [token(position)]
        assert stream.last_seq == position + 1
    await finish(worker, claim, 6)
    assert await anext(stream) == [FINISHED]
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert await stream.next_frames() == []


async def test_frames_that_are_ready_together_come_together(
    hub: StreamHub, requests: RequestQueue, worker: WorkerQueue
) -> None:
    stream = await hub.open(QUEUE, "r")
    claim = await begin(requests, worker)
    await speak(worker, claim, 0, 1, 2)
    await asyncio.sleep(0.05)
    assert await stream.next_frames() == [[token(0)], [token(1)], [token(2)]]
    assert stream.last_seq == 3


async def test_a_stream_opened_in_the_middle_or_after_the_end_can_start_at_the_beginning(
    hub: StreamHub, requests: RequestQueue, worker: WorkerQueue
) -> None:
    claim = await begin(requests, worker)
    await speak(worker, claim, *range(700))
    middle = await hub.open(QUEUE, "r")
    await middle.replay_from(0)
    assert positions([e for frame in await middle.next_frames() for e in frame])[:3] == [0, 1, 2]
    await finish(worker, claim, 701)
    late = await hub.open(QUEUE, "r")
    await late.replay_from(0)
    assert positions(await read(late)) == list(range(700))


async def test_a_stream_that_does_not_know_of_earlier_frames_finds_them(
    hub: StreamHub, requests: RequestQueue, worker: WorkerQueue
) -> None:
    claim = await begin(requests, worker)
    await speak(worker, claim, 0, 1)
    stream = await hub.open(QUEUE, "r")
    await speak(worker, claim, 2, first_seq=3)
    await finish(worker, claim, 4)
    assert positions(await read(stream)) == [0, 1, 2]


async def test_reading_before_the_request_is_enqueued_just_waits(
    hub: StreamHub, requests: RequestQueue, worker: WorkerQueue
) -> None:
    stream = await hub.open(QUEUE, "r")
    reader = asyncio.create_task(read(stream))
    await asyncio.sleep(0.1)
    await serve(worker, await begin(requests, worker), tokens=2)
    assert positions(await reader) == [0, 1]


async def test_a_reader_can_resume_from_any_frame(hub: StreamHub, requests: RequestQueue, worker: WorkerQueue) -> None:
    claim = await begin(requests, worker)
    await speak(worker, claim, *range(10))
    stream = await hub.open(QUEUE, "r")
    await stream.replay_from(7)
    assert await stream.next_frames() == [[token(7)], [token(8)], [token(9)]]
    await speak(worker, claim, 10, first_seq=11)
    assert await anext(stream) == [token(10)]
    await stream.replay_from(9)
    assert await stream.next_frames() == [[token(9)], [token(10)]]


async def test_several_readers_of_one_request_each_get_everything(
    hub: StreamHub, requests: RequestQueue, worker: WorkerQueue, redis: Redis
) -> None:
    readers = [await hub.open(QUEUE, "r") for _ in range(3)]
    claim = await begin(requests, worker)
    await speak(worker, claim, 0)
    readers[0].close()
    await speak(worker, claim, 1, first_seq=2)
    await finish(worker, claim, 3)
    assert positions(await read(readers[1])) == positions(await read(readers[2])) == [0, 1]
    assert await readers[0].next_frames() == []
    await asyncio.sleep(0.15)
    assert await subscribers(redis) == 0


async def test_opening_again_right_after_closing_is_heard(
    hub: StreamHub, requests: RequestQueue, worker: WorkerQueue, redis: Redis
) -> None:
    for _ in range(5):
        (await hub.open(QUEUE, "r")).close()
    stream = await hub.open(QUEUE, "r")
    await asyncio.sleep(0.15)
    assert await subscribers(redis) == 1
    await serve(worker, await begin(requests, worker), tokens=3)
    assert positions(await read(stream)) == [0, 1, 2]


async def test_a_message_lost_before_others_is_noticed_by_its_number(
    hub: StreamHub, requests: RequestQueue, worker: WorkerQueue, redis: Redis
) -> None:
    stream = await hub.open(QUEUE, "r")
    claim = await begin(requests, worker)
    await speak(worker, claim, 0)
    await log_silently(redis, 2, token(1))
    await speak(worker, claim, 2, first_seq=3)
    started = time.monotonic()
    seen: list[Event] = []
    while len(seen) < 3:
        seen += await anext(stream)
    assert positions(seen) == [0, 1, 2]
    assert time.monotonic() - started < 1


async def test_a_lost_last_message_is_noticed_by_its_silence(
    hub: StreamHub, requests: RequestQueue, worker: WorkerQueue, redis: Redis
) -> None:
    stream = await hub.open(QUEUE, "r")
    claim = await begin(requests, worker)
    await speak(worker, claim, 0)
    await log_silently(redis, 2, token(1), FINISHED)
    events = await asyncio.wait_for(read(stream), 5)
    assert positions(events) == [0, 1]


async def test_a_repeated_message_is_ignored(
    hub: StreamHub, requests: RequestQueue, worker: WorkerQueue, redis: Redis
) -> None:
    stream = await hub.open(QUEUE, "r")
    claim = await begin(requests, worker)
    await speak(worker, claim, 0, 1)
    for seq in (1, 2, 1):
        await redis.spublish(keys.token_channel(QUEUE, "r"), b"%d|" % seq + encode_frame([token(seq - 1)]))
    await finish(worker, claim, 3)
    assert positions(await read(stream)) == [0, 1]


async def test_streams_go_on_when_their_connection_is_killed_again_and_again(
    hub: StreamHub, requests: RequestQueue, make_worker: MakeWorker, redis: Redis
) -> None:
    streams = [await hub.open(QUEUE, f"r{n}") for n in range(20)]
    for n in range(20):
        await requests.enqueue(make_job(f"r{n}"))
    worker = make_worker()
    claims = await worker.claim(20, ALL)

    async def produce() -> None:
        for seq in range(1, 121):
            await worker.append([FrameOut(c.request_id, c.epoch, seq, [token(seq - 1)]) for c in claims])
            await asyncio.sleep(0.005)
        for claim in claims:
            await finish(worker, claim, 121)

    async def kill() -> None:
        while True:
            await asyncio.sleep(0.07)
            await redis.client_kill_filter(_type="pubsub")

    killer = asyncio.create_task(kill())
    results = await asyncio.gather(*(read(stream) for stream in streams), produce())
    killer.cancel()
    await asyncio.gather(killer, return_exceptions=True)
    for events in results[:-1]:
        assert events is not None
        assert positions(events) == list(range(120))
        assert isinstance(ending(events), Finished)


async def test_a_reader_that_is_cancelled_while_waiting_loses_nothing(
    hub: StreamHub, requests: RequestQueue, worker: WorkerQueue, redis: Redis
) -> None:
    stream = await hub.open(QUEUE, "r")
    claim = await begin(requests, worker)
    seen: list[Event] = []

    async def produce() -> None:
        for position in range(200):
            if position % 10 == 3:
                await log_silently(redis, position + 1, token(position))
            else:
                await speak(worker, claim, position, first_seq=position + 1)
        await finish(worker, claim, 201)

    producer = asyncio.create_task(produce())
    while not seen or seen[-1] != FINISHED:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.001):
                frames = await stream.next_frames()
                seen += [event for frame in frames for event in frame]
    await producer
    assert positions(seen) == list(range(200))


async def test_a_slow_reader_holds_up_neither_the_others_nor_the_memory(
    hub: StreamHub, requests: RequestQueue, make_worker: MakeWorker
) -> None:
    slow, fast = await hub.open(QUEUE, "slow"), await hub.open(QUEUE, "fast")
    for name in ("slow", "fast"):
        await requests.enqueue(make_job(name))
    worker = make_worker()
    claims = await worker.claim(2, ALL)
    padding = "x" * 2000

    async def produce() -> None:
        for seq in range(1, 601):
            event = type(token(0))(0, [seq - 1], padding)
            await worker.append([FrameOut(c.request_id, c.epoch, seq, [event]) for c in claims])
        for claim in claims:
            await finish(worker, claim, 601)

    events, _ = await asyncio.gather(read(fast), produce())
    assert positions(events) == list(range(600))
    assert slow._buffered_bytes < 300 * 1024  # the bound is a promise that only shows from inside
    assert positions(await read(slow)) == list(range(600))


async def test_an_unknown_request_is_answered_not_waited_for(hub: StreamHub) -> None:
    stream = await hub.open(QUEUE, "never sent")
    [failed] = await asyncio.wait_for(read(stream), 5)
    assert isinstance(failed, Failed)
    assert failed.code is ErrorCode.INTERNAL


async def test_a_request_that_vanishes_under_its_reader_is_answered_not_waited_for(
    hub: StreamHub, requests: RequestQueue, worker: WorkerQueue, redis: Redis
) -> None:
    stream = await hub.open(QUEUE, "r")
    claim = await begin(requests, worker)
    await speak(worker, claim, 0)
    await redis.flushall()
    events = await asyncio.wait_for(read(stream), 5)
    assert positions(events) == [0]
    assert isinstance(ending(events), Failed)


async def test_a_log_with_a_hole_is_an_error_and_not_a_silent_jump(
    hub: StreamHub, requests: RequestQueue, worker: WorkerQueue, redis: Redis
) -> None:
    claim = await begin(requests, worker)
    await speak(worker, claim, 0, 1, 2)
    await redis.xdel(keys.token_log(QUEUE, "r"), "2-0")
    events = await asyncio.wait_for(read(await hub.open(QUEUE, "r")), 5)
    assert positions(events) == [0]
    assert isinstance(ending(events), Failed)


async def test_a_frame_that_cannot_be_read_ends_the_stream_with_an_error(
    hub: StreamHub, requests: RequestQueue, worker: WorkerQueue, redis: Redis
) -> None:
    stream = await hub.open(QUEUE, "r")
    await begin(requests, worker)
    await redis.spublish(keys.token_channel(QUEUE, "r"), b"1|\xff\xff")
    assert isinstance(ending(await asyncio.wait_for(read(stream), 5)), Failed)


async def test_many_streams_are_opened_with_few_commands(hub: StreamHub, redis: Redis) -> None:
    await hub.open(QUEUE, "warm")
    before = (await redis.info("commandstats"))["cmdstat_ssubscribe"]["calls"]
    await asyncio.gather(*(hub.open(QUEUE, f"r{n}") for n in range(500)))
    assert (await redis.info("commandstats"))["cmdstat_ssubscribe"]["calls"] - before <= 5
    assert await subscribers(redis, "r499") == 1


async def test_closing_the_hub_ends_its_streams(redis: Redis) -> None:
    hub = StreamHub(redis)
    await hub.start()
    stream = await hub.open(QUEUE, "r")
    reader = asyncio.create_task(stream.next_frames())
    await asyncio.sleep(0.01)
    await hub.close()
    assert await asyncio.wait_for(reader, 1) == []
