"""Cancellations and deadlines, in every state a request can be in."""

import asyncio

import pytest
from eventually import eventually
from queue_traffic import QUEUE, MakeWorker, ending, finish, make_job, positions, speak
from redis.asyncio import Redis

from headrace_shared.errors import DeadlineExceededError, ErrorCode
from headrace_shared.protocol.event import Failed, Finished
from headrace_shared.queue import keys
from headrace_shared.queue.claims import AppendStatus, ControlKind, ControlMessage, FrameOut, WorkerQueue
from headrace_shared.queue.hub import StreamHub
from headrace_shared.queue.requests import CancelOutcome, RequestQueue
from headrace_shared.queue.status import QueueDepth
from headrace_shared.queue.stream import ResultStream

ALL = 10**9


async def read(stream: ResultStream) -> list[object]:
    return [event async for frame in stream for event in frame]


async def test_a_queued_request_ends_at_once_and_is_never_claimed(
    requests: RequestQueue, worker: WorkerQueue, hub: StreamHub
) -> None:
    stream = await hub.open(QUEUE, "r")
    await requests.enqueue(make_job("r"))
    assert await requests.cancel(QUEUE, "r", "client left") is CancelOutcome.CANCELLED
    assert await read(stream) == [Failed(ErrorCode.CANCELLED, "client left")]
    assert await worker.claim(9, ALL) == []
    assert await requests.cancel(QUEUE, "r", "again") is CancelOutcome.GONE
    assert await requests.depth(QUEUE) == QueueDepth(0, 0, 0)


async def test_a_running_requests_worker_is_told_and_says_the_last_word(
    requests: RequestQueue, worker: WorkerQueue, hub: StreamHub
) -> None:
    messages = worker.control()
    assert (await anext(messages)).kind is ControlKind.WORK
    await asyncio.sleep(0.1)
    stream = await hub.open(QUEUE, "r")
    await requests.enqueue(make_job("r"))
    [claim] = await worker.claim(1, ALL)
    await speak(worker, claim, 0)
    assert await requests.cancel(QUEUE, "r", "stop it") is CancelOutcome.REQUESTED
    while (message := await anext(messages)).kind is ControlKind.WORK:
        pass
    assert message == ControlMessage(ControlKind.CANCEL, "r")
    [answer] = await speak(worker, claim, 1, first_seq=2)
    assert answer.status is AppendStatus.CANCELLED
    last = Failed(ErrorCode.CANCELLED, "stopped")
    [answer] = await worker.append([FrameOut("r", claim.epoch, 2, [last], final=True)])
    assert answer.status is AppendStatus.OK
    events = [event async for frame in stream for event in frame]
    assert positions(events) == [0]
    assert ending(events) == last
    await messages.aclose()  # type: ignore[attr-defined]


async def test_what_somebody_listens_to_goes_on_when_only_the_unheard_are_to_end(
    requests: RequestQueue, worker: WorkerQueue, hub: StreamHub, redis: Redis
) -> None:
    streams = [await hub.open(QUEUE, f"r{n}") for n in range(2)]
    for n in range(2):
        await requests.enqueue(make_job(f"r{n}"))
    [claim] = await worker.claim(1, ALL)
    for n in range(2):
        assert await requests.cancel(QUEUE, f"r{n}", "x", unless_heard=True) is CancelOutcome.HEARD
    assert [a.status for a in await speak(worker, claim, 0)] == [AppendStatus.OK]
    for stream in streams:
        stream.close()

    async def unheard() -> bool:
        channels = [keys.token_channel(QUEUE, f"r{n}") for n in range(2)]
        return not any(count for _, count in await redis.pubsub_shardnumsub(*channels))

    await eventually(unheard)
    outcomes = [await requests.cancel(QUEUE, f"r{n}", "x", unless_heard=True) for n in range(2)]
    assert outcomes == [CancelOutcome.REQUESTED, CancelOutcome.CANCELLED]


async def test_a_renewal_tells_who_listens_to_what_says_nothing(
    requests: RequestQueue, worker: WorkerQueue, hub: StreamHub
) -> None:
    stream = await hub.open(QUEUE, "heard")
    for request_id in ("heard", "unheard"):
        await requests.enqueue(make_job(request_id))
    await worker.claim(2, ALL)
    assert (await worker.renew(["heard", "unheard"])).listeners == {"heard": 1, "unheard": 0}
    assert (await worker.renew(["unheard"])).listeners == {"unheard": 0}
    assert await worker.renew() == ({}, {})
    stream.close()

    async def unheard() -> bool:
        return (await worker.renew(["heard"])).listeners == {"heard": 0}

    await eventually(unheard)


async def test_an_unknown_or_finished_request_cannot_be_cancelled(requests: RequestQueue, worker: WorkerQueue) -> None:
    assert await requests.cancel(QUEUE, "nobody", "x") is CancelOutcome.GONE
    await requests.enqueue(make_job("r"))
    [claim] = await worker.claim(1, ALL)
    await finish(worker, claim, 1)
    assert await requests.cancel(QUEUE, "r", "x") is CancelOutcome.GONE


async def test_a_final_frame_that_was_under_way_wins_over_the_cancellation(
    requests: RequestQueue, worker: WorkerQueue, hub: StreamHub
) -> None:
    stream = await hub.open(QUEUE, "r")
    await requests.enqueue(make_job("r"))
    [claim] = await worker.claim(1, ALL)
    await requests.cancel(QUEUE, "r", "x")
    assert (await finish(worker, claim, 1)).status is AppendStatus.OK
    assert isinstance(ending(await read(stream)), Finished)  # type: ignore[arg-type]


async def test_cancelling_races_with_claiming_and_exactly_one_end_is_seen(
    requests: RequestQueue, make_worker: MakeWorker, hub: StreamHub
) -> None:
    worker = make_worker()
    streams = [await hub.open(QUEUE, f"r{n}") for n in range(60)]
    for n in range(60):
        await requests.enqueue(make_job(f"r{n}"))

    async def work() -> None:
        while claims := await worker.claim(3, ALL):
            for claim in claims:
                [answer] = await speak(worker, claim, 0)
                if answer.status is AppendStatus.CANCELLED:
                    failed = Failed(ErrorCode.CANCELLED, "x")
                    await worker.append([FrameOut(claim.request_id, claim.epoch, 1, [failed], final=True)])
                else:
                    await finish(worker, claim, 2)

    await asyncio.gather(work(), *(requests.cancel(QUEUE, f"r{n}", "x") for n in range(0, 60, 2)))
    for stream in streams:
        ending(await read(stream))  # type: ignore[arg-type]
    assert await requests.depth(QUEUE) == QueueDepth(0, 0, 0)


@pytest.mark.parametrize("cancelled", ["before its lease ends", "after its lease ended"])
async def test_a_cancelled_request_of_a_dead_worker_is_not_continued(
    requests: RequestQueue, make_worker: MakeWorker, hub: StreamHub, redis: Redis, cancelled: str
) -> None:
    stream = await hub.open(QUEUE, "r")
    await requests.enqueue(make_job("r"))
    dead, heir = make_worker("dead", lease_ms=300), make_worker("heir")
    [claim] = await dead.claim(1, ALL)
    await speak(dead, claim, 0)
    if cancelled == "before its lease ends":
        assert await requests.cancel(QUEUE, "r", "x") is CancelOutcome.REQUESTED
        await asyncio.sleep(0.32)
    else:
        await asyncio.sleep(0.32)
        assert await requests.cancel(QUEUE, "r", "x") is CancelOutcome.CANCELLED
        assert [a.status for a in await speak(dead, claim, 1, first_seq=2)] == [AppendStatus.FENCED]
        await asyncio.sleep(0.32)
    assert await heir.reap() == 0
    assert await heir.claim(1, ALL) == []
    events = [event async for frame in stream for event in frame]
    assert positions(events) == [0]
    assert isinstance(failed := ending(events), Failed)
    assert failed.code is ErrorCode.CANCELLED
    assert await requests.depth(QUEUE) == QueueDepth(0, 0, 0)
    assert await redis.keys("*own*") == await redis.keys("*body*") == []


async def test_a_request_waiting_to_be_continued_can_be_cancelled(
    requests: RequestQueue, worker: WorkerQueue, hub: StreamHub
) -> None:
    stream = await hub.open(QUEUE, "r")
    await requests.enqueue(make_job("r"))
    [claim] = await worker.claim(1, ALL)
    await speak(worker, claim, 0)
    await worker.release()
    assert await requests.cancel(QUEUE, "r", "x") is CancelOutcome.CANCELLED
    assert [type(event).__name__ for event in await read(stream)] == ["Delta", "Failed"]


async def test_a_deadline_in_the_past_is_refused_at_once(requests: RequestQueue) -> None:
    with pytest.raises(DeadlineExceededError):
        await requests.enqueue(make_job("r"), timeout_ms=0)


@pytest.mark.parametrize("swept_by", ["claim", "reap"])
async def test_a_queued_request_past_its_deadline_costs_no_prefill(
    requests: RequestQueue, worker: WorkerQueue, hub: StreamHub, redis: Redis, swept_by: str
) -> None:
    stream = await hub.open(QUEUE, "r")
    await requests.enqueue(make_job("r"), timeout_ms=200)
    await requests.enqueue(make_job("patient"), timeout_ms=60_000)
    await asyncio.sleep(0.22)
    if swept_by == "reap":
        await worker.reap()
    assert [claim.request_id for claim in await worker.claim(9, ALL)] == ["patient"]
    [failed] = await read(stream)
    assert isinstance(failed, Failed)
    assert failed.code is ErrorCode.DEADLINE_EXCEEDED
    assert await requests.depth(QUEUE) == QueueDepth(0, 0, 1)
    assert await redis.exists(f"{keys.base(QUEUE)}due") == 0


async def test_a_running_request_past_its_deadline_is_told_so(requests: RequestQueue, worker: WorkerQueue) -> None:
    await requests.enqueue(make_job("r"), timeout_ms=300)
    [claim] = await worker.claim(1, ALL)
    assert [a.status for a in await speak(worker, claim, 0)] == [AppendStatus.OK]
    await asyncio.sleep(0.32)
    assert [a.status for a in await speak(worker, claim, 1, first_seq=2)] == [AppendStatus.DEADLINE]
    failed = Failed(ErrorCode.DEADLINE_EXCEEDED, "late")
    [answer] = await worker.append([FrameOut("r", claim.epoch, 2, [failed], final=True)])
    assert answer.status is AppendStatus.OK


async def test_the_doorbell_rings_when_an_empty_queue_gets_work(requests: RequestQueue, worker: WorkerQueue) -> None:
    heard: list[ControlMessage] = []

    async def listen() -> None:
        async for message in worker.control():
            heard.append(message)

    listener = asyncio.create_task(listen())
    await asyncio.sleep(0.2)  # connecting rings it too
    heard.clear()
    await requests.enqueue(make_job("first"))
    await requests.enqueue(make_job("second"))
    await asyncio.sleep(0.1)
    assert heard == [ControlMessage(ControlKind.WORK)]
    listener.cancel()
    await asyncio.gather(listener, return_exceptions=True)
