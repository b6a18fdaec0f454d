"""What priority alone does not decide: aging, weights, and what requests really took."""

import asyncio
from collections import Counter

from queue_traffic import QUEUE, MakeWorker, make_job, token
from redis.asyncio import Redis

from headrace_shared.protocol.event import Finished
from headrace_shared.queue import keys
from headrace_shared.queue.claims import Claim, FrameOut, WorkerQueue
from headrace_shared.queue.requests import QueueLimits, RequestQueue

ALL = 10**9


async def use(worker: WorkerQueue, claim: Claim, tokens: int) -> None:
    """Finish a request that took so many tokens."""
    end = Finished(prompt_tokens=0, completion_tokens=tokens)
    await worker.append([FrameOut(claim.request_id, claim.epoch, claim.seq + 1, [token(0), end], final=True)])


async def claimed(worker: WorkerQueue, count: int) -> list[str]:
    return [claim.request_id for _ in range(count) for claim in await worker.claim(1, ALL)]


async def test_without_a_bound_the_least_important_waits_for_ever(redis: Redis, worker: WorkerQueue) -> None:
    requests = RequestQueue(redis, QueueLimits())
    await requests.enqueue(make_job("background", priority=9))
    for n in range(40):
        await requests.enqueue(make_job(f"r{n}"))
    await asyncio.sleep(0.02)
    assert await claimed(worker, 41) == [*(f"r{n}" for n in range(40)), "background"]


async def test_whoever_has_waited_too_long_gets_every_eighth_turn_oldest_first(
    redis: Redis, worker: WorkerQueue
) -> None:
    requests = RequestQueue(redis, QueueLimits(aging_ms=10_000))
    for n in range(3):
        await requests.enqueue(make_job(f"old{n}", priority=9, tenant="abc"[n]))
        await redis.zincrby(keys.ages(QUEUE), -20_000, f"old{n}")  # as if twenty seconds had passed
    for n in range(40):
        await requests.enqueue(make_job(f"r{n}"))
    order = await claimed(worker, 24)
    assert {order.index(f"old{n}") for n in range(3)} == {0, 8, 16}
    assert [r for r in order if r.startswith("r")] == [f"r{n}" for n in range(21)]


async def test_what_has_not_waited_too_long_keeps_its_place(redis: Redis, worker: WorkerQueue) -> None:
    requests = RequestQueue(redis, QueueLimits(aging_ms=60_000))
    await requests.enqueue(make_job("background", priority=9))
    for n in range(20):
        await requests.enqueue(make_job(f"r{n}"))
    assert "background" not in await claimed(worker, 20)


async def test_an_overdue_request_that_does_not_fit_keeps_its_turn(redis: Redis, worker: WorkerQueue) -> None:
    requests = RequestQueue(redis, QueueLimits(aging_ms=1))
    await requests.enqueue(make_job("large", priority=9, cost_tokens=500))
    await asyncio.sleep(0.01)
    await requests.enqueue(make_job("small", cost_tokens=1))
    assert await worker.claim(2, 100) == []
    assert await claimed(worker, 2) == ["large", "small"]


async def test_a_tenant_of_double_weight_gets_double_service(redis: Redis, worker: WorkerQueue) -> None:
    requests = RequestQueue(redis, QueueLimits(tenant_weights={"ann": 2.0, "cy": 0.5}))
    for n in range(60):
        for tenant in ("ann", "bob", "cy"):
            await requests.enqueue(make_job(f"{tenant}{n}", tenant=tenant))
    count = Counter(request_id.rstrip("0123456789") for request_id in await claimed(worker, 70))
    assert abs(count["ann"] - 40) <= 1
    assert abs(count["bob"] - 20) <= 1
    assert abs(count["cy"] - 10) <= 1


async def test_tenants_are_charged_what_their_requests_took_not_what_they_might_have(
    requests: RequestQueue, worker: WorkerQueue
) -> None:
    """Ann's answers are ten times shorter than her limit allows, so she gets ten times as many."""
    for n in range(120):
        await requests.enqueue(make_job(f"a{n}", tenant="ann", cost_tokens=100))
        await requests.enqueue(make_job(f"b{n}", tenant="bob", cost_tokens=100))
    count: Counter[str] = Counter()
    for _ in range(110):
        [claim] = await worker.claim(1, ALL)
        count[claim.request_id[0]] += 1
        await use(worker, claim, 10 if claim.request_id[0] == "a" else 100)
    assert 97 <= count["a"] <= 102


async def test_a_request_that_ends_without_an_answer_is_charged_what_the_worker_says(
    redis: Redis, requests: RequestQueue, worker: WorkerQueue
) -> None:
    for n in range(2):
        await requests.enqueue(make_job(f"a{n}", tenant="ann", cost_tokens=100))
    [claim] = await worker.claim(1, ALL)
    await worker.append([FrameOut("a0", claim.epoch, 1, [], final=True, used_tokens=30)])
    assert await redis.zscore(f"{keys.base(QUEUE)}lanes:0", keys.tenant_lane("ann")) == 30


async def test_a_lane_that_is_empty_when_the_usage_is_known_is_still_corrected(
    redis: Redis, requests: RequestQueue, worker: WorkerQueue
) -> None:
    await requests.enqueue(make_job("a0", tenant="ann", cost_tokens=100))
    for n in range(3):
        await requests.enqueue(make_job(f"b{n}", tenant="bob", cost_tokens=1))
    [claim, _] = await worker.claim(2, ALL)
    assert claim.request_id == "a0"
    await use(worker, claim, 40)
    assert await redis.zscore(f"{keys.base(QUEUE)}lanes:0", keys.tenant_lane("bob")) == 1
    scores = [
        await redis.zscore(f"{keys.base(QUEUE)}{order}:0", keys.tenant_lane("ann")) for order in ("lanes", "rest")
    ]
    assert 40 in scores


async def test_a_continued_request_is_charged_once(
    redis: Redis, requests: RequestQueue, worker: WorkerQueue, make_worker: MakeWorker
) -> None:
    for n in range(2):
        await requests.enqueue(make_job(f"a{n}", tenant="ann", cost_tokens=100))
    await worker.claim(1, ALL)
    await worker.release()
    heir = make_worker("heir")
    [claim] = await heir.claim(1, ALL)
    await use(heir, claim, 70)
    assert await redis.zscore(f"{keys.base(QUEUE)}lanes:0", keys.tenant_lane("ann")) == 70
