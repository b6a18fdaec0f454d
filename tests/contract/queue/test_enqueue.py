"""Putting requests into the queue."""

import asyncio

import pytest
from queue_traffic import QUEUE, make_job
from redis.asyncio import Redis

from headrace_shared.errors import InvalidRequestError, OverloadedError
from headrace_shared.queue.claims import WorkerQueue
from headrace_shared.queue.requests import EnqueueResult, QueueLimits, RequestQueue
from headrace_shared.queue.status import QueueDepth

ALL = 10**9


async def test_an_idle_queue_hands_a_request_over_with_everything_in_it(
    requests: RequestQueue, worker: WorkerQueue
) -> None:
    job = make_job("r", priority=-3, tenant="ann", traceparent="00-ab-cd-01")
    assert (await requests.enqueue(job)).result is EnqueueResult.NEW
    [claim] = await worker.claim(8, ALL)
    assert claim.job == job
    assert (claim.request_id, claim.attempt, claim.seq, claim.priority) == ("r", 1, 0, -3)
    assert claim.log == []
    assert claim.claimed_ms >= claim.enqueued_ms > 0


async def test_a_request_id_is_accepted_once(requests: RequestQueue, worker: WorkerQueue) -> None:
    results = await asyncio.gather(*(requests.enqueue(make_job("same")) for _ in range(20)))
    assert sorted(r.result for r in results) == [EnqueueResult.DUPLICATE] * 19 + [EnqueueResult.NEW]
    assert len(await worker.claim(50, ALL)) == 1
    assert (await requests.enqueue(make_job("same"))).result is EnqueueResult.DUPLICATE
    assert await worker.claim(50, ALL) == []


async def test_depth_counts_what_waits_and_what_runs(requests: RequestQueue, worker: WorkerQueue) -> None:
    assert await requests.depth(QUEUE) == QueueDepth(0, 0, 0)
    for i in range(5):
        await requests.enqueue(make_job(f"r{i}", cost_tokens=100 + i))
    await worker.claim(2, ALL)
    assert await requests.depth(QUEUE) == QueueDepth(3, 102 + 103 + 104, 2)


async def test_a_full_queue_refuses_and_takes_again_when_there_is_room(redis: Redis, worker: WorkerQueue) -> None:
    requests = RequestQueue(redis, QueueLimits(max_requests=3))
    for i in range(3):
        await requests.enqueue(make_job(f"r{i}"))
    with pytest.raises(OverloadedError, match="3 requests"):
        await requests.enqueue(make_job("late"))
    assert (await requests.enqueue(make_job("r1"))).result is EnqueueResult.DUPLICATE
    await worker.claim(1, ALL)
    assert (await requests.enqueue(make_job("late"))).result is EnqueueResult.NEW


async def test_tokens_bound_the_queue_too_but_an_empty_one_takes_any_request(redis: Redis) -> None:
    requests = RequestQueue(redis, QueueLimits(max_tokens=100))
    await requests.enqueue(make_job("huge", cost_tokens=5000))
    with pytest.raises(OverloadedError):
        await requests.enqueue(make_job("small", cost_tokens=1))


async def test_two_queues_do_not_see_each_other(redis: Redis, requests: RequestQueue) -> None:
    await requests.enqueue(make_job("same", queue="one.1"))
    await requests.enqueue(make_job("same", queue="two.2"))
    one, two = WorkerQueue(redis, "one.1", "w"), WorkerQueue(redis, "two.2", "w")
    [first], [second] = await one.claim(9, ALL), await two.claim(9, ALL)
    assert (first.job.header.queue, second.job.header.queue) == ("one.1", "two.2")
    assert await one.claim(9, ALL) == []
    assert (await requests.depth("one.1")).running == 1


async def test_a_priority_that_cannot_be_ordered_exactly_is_refused(requests: RequestQueue) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await requests.enqueue(make_job("r", priority=2**53))
    assert caught.value.param == "priority"
    await requests.enqueue(make_job("r", priority=-(2**53) + 1))


async def test_a_body_of_many_megabytes_arrives(requests: RequestQueue, worker: WorkerQueue) -> None:
    job = make_job("big", tenant="x" * 100)
    job = type(job)(job.header, prompt=bytes(8 << 20))
    await requests.enqueue(job)
    [claim] = await worker.claim(1, ALL)
    assert claim.job == job
