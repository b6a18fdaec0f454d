"""Background requests take what others leave, at the queue as in the worker."""

import asyncio

import pytest
from queue_traffic import MakeWorker, make_job

from headrace_shared.queue.claims import BackgroundRoom, ControlMessage, WorkerQueue
from headrace_shared.queue.requests import QueueLimits, RequestQueue

ALL = 10**9


async def names(worker: WorkerQueue, want: int, max_cost: int, *background: int) -> list[str]:
    return [claim.request_id for claim in await worker.claim(want, max_cost, BackgroundRoom(*background))]


async def test_a_worker_takes_others_while_it_has_no_room_for_background_requests(
    requests: RequestQueue, worker: WorkerQueue
) -> None:
    for number in range(5):
        await requests.enqueue(make_job(f"b{number}", priority=50, background=True))
    for number in range(3):
        await requests.enqueue(make_job(f"u{number}"))
    assert await names(worker, 8, ALL, 0, 0) == ["u0", "u1", "u2"]
    assert await names(worker, 8, ALL, 0, ALL) == []
    assert await names(worker, 8, ALL, 2, ALL) == ["b0", "b1"]
    assert await names(worker, 8, ALL, 8, ALL) == ["b2", "b3", "b4"]


async def test_what_others_take_is_taken_from_the_room_for_background_requests_too(
    requests: RequestQueue, worker: WorkerQueue
) -> None:
    for number in range(3):
        await requests.enqueue(make_job(f"b{number}", priority=50, background=True, cost_tokens=40))
    await requests.enqueue(make_job("u", cost_tokens=50))
    assert await names(worker, 8, 200, 8, 100) == ["u", "b0"]
    assert await names(worker, 8, 200, 8, 39) == []
    assert await names(worker, 8, 39, 8, 200) == []


async def test_a_background_request_that_has_waited_too_long_is_no_reason_to_pass_over_others(
    requests: RequestQueue, worker: WorkerQueue, redis: object
) -> None:
    aging = RequestQueue(redis, QueueLimits(aging_ms=1))  # type: ignore[arg-type]
    await aging.enqueue(make_job("old", priority=50, background=True))
    await asyncio.sleep(0.01)
    for number in range(20):
        await aging.enqueue(make_job(f"u{number}"))
    assert len(await names(worker, 15, ALL, 0, 0)) == 15
    assert "old" in await names(worker, 6, ALL, 1, ALL)


async def test_the_doorbell_rings_for_whoever_comes_before_a_whole_backlog(
    requests: RequestQueue, worker: WorkerQueue
) -> None:
    heard: list[ControlMessage] = []

    async def listen() -> None:
        async for message in worker.control():
            heard.append(message)

    for number in range(3):
        await requests.enqueue(make_job(f"b{number}", priority=50, background=True))
    listener = asyncio.create_task(listen())
    await asyncio.sleep(0.2)  # connecting rings it too
    counts = []
    for name, priority in [("u1", 0), ("u2", 0), ("urgent", -1), ("b9", 50), ("b10", 60)]:
        heard.clear()
        await requests.enqueue(make_job(name, priority=priority))
        await asyncio.sleep(0.05)
        counts.append(len(heard))
    assert counts == [1, 0, 1, 0, 0]
    listener.cancel()
    await asyncio.gather(listener, return_exceptions=True)


@pytest.mark.parametrize("ends", ["release", "reap"])
async def test_a_background_request_that_lost_its_worker_still_is_one(
    requests: RequestQueue, make_worker: MakeWorker, ends: str
) -> None:
    await requests.enqueue(make_job("b", priority=50, background=True))
    first, second = make_worker("w1", lease_ms=50), make_worker("w2")
    assert await names(first, 1, ALL, 1, ALL) == ["b"]
    if ends == "release":
        await first.release()
    else:
        await asyncio.sleep(0.1)
        await second.reap()
    assert await names(second, 1, ALL, 0, 0) == []
    [claim] = await second.claim(1, ALL, BackgroundRoom(1, ALL))
    assert claim.job.header.background


async def test_others_are_not_held_up_by_background_requests_of_better_priority_and_those_keep_their_order(
    requests: RequestQueue, worker: WorkerQueue
) -> None:
    for number in range(4):
        await requests.enqueue(make_job(f"late{number}", priority=-3, tenant=f"t{number}", background=True))
    await requests.enqueue(make_job("small", priority=-2, background=True, cost_tokens=1))
    await requests.enqueue(make_job("u0", priority=-1))
    await requests.enqueue(make_job("u1"))
    assert await names(worker, 1, ALL, 0, 0) == ["u0"]
    assert await names(worker, 8, ALL, 1, 9) == ["u1"]
    assert await names(worker, 8, ALL, 5, ALL) == ["late0", "late1", "late2", "late3", "small"]
    assert await names(worker, 8, ALL, 5, ALL) == []
