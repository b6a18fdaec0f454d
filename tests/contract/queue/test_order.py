"""Who is next: priority, then age, fairly between tenants."""

import random
from collections import Counter

from queue_traffic import MakeWorker, finish, make_job
from redis.asyncio import Redis

from headrace_shared.queue.claims import WorkerQueue
from headrace_shared.queue.requests import RequestQueue

ALL = 10**9


async def claim_all(worker: WorkerQueue, each: int = 64) -> list[str]:
    order: list[str] = []
    while claims := await worker.claim(each, ALL):
        order += [claim.request_id for claim in claims]
    return order


async def test_thousands_of_requests_come_out_by_priority_and_then_by_age(
    requests: RequestQueue, worker: WorkerQueue
) -> None:
    rng = random.Random(7)
    levels = [-(2**40), -5, -1, 0, 1, 3, 7, 100, 2**40]
    sent = [(rng.choice(levels), number) for number in range(3000)]
    for priority, number in sent:
        await requests.enqueue(make_job(f"r{number}", priority=priority))
    assert await claim_all(worker) == [f"r{number}" for _, number in sorted(sent)]


async def test_a_newcomer_of_better_priority_overtakes_the_whole_backlog(
    requests: RequestQueue, worker: WorkerQueue
) -> None:
    for number in range(300):
        await requests.enqueue(make_job(f"r{number}", priority=number % 3))
    await worker.claim(50, ALL)
    await requests.enqueue(make_job("urgent", priority=-1))
    assert [claim.request_id for claim in await worker.claim(1, ALL)] == ["urgent"]


async def test_several_workers_share_one_order(requests: RequestQueue, make_worker: MakeWorker) -> None:
    for number in range(400):
        await requests.enqueue(make_job(f"{number:03}", priority=number // 100))
    workers = [make_worker(f"w{i}") for i in range(4)]
    order: list[str] = []
    while len(order) < 400:
        for worker in workers:
            order += [claim.request_id for claim in await worker.claim(3, ALL)]
    assert order == sorted(order)


async def test_tenants_of_one_level_take_turns_by_what_their_requests_cost(
    requests: RequestQueue, worker: WorkerQueue
) -> None:
    for number in range(200):
        await requests.enqueue(make_job(f"a{number}", tenant="ann", cost_tokens=10))
    for number in range(200):
        await requests.enqueue(make_job(f"b{number}", tenant="bob", cost_tokens=30))
    first = [claim.request_id for claim in await worker.claim(100, ALL)]
    count = Counter(request_id[0] for request_id in first)
    assert abs(count["a"] * 10 - count["b"] * 30) <= 30
    for tenant in "ab":
        mine = [request_id for request_id in first if request_id[0] == tenant]
        assert mine == [f"{tenant}{number}" for number in range(len(mine))]


async def test_a_newcomer_among_tenants_neither_waits_for_the_backlog_nor_catches_up_for_the_past(
    requests: RequestQueue, worker: WorkerQueue
) -> None:
    for number in range(200):
        await requests.enqueue(make_job(f"a{number}", tenant="ann"))
    await worker.claim(100, ALL)
    for number in range(50):
        await requests.enqueue(make_job(f"b{number}", tenant="bob"))
    next_ones = Counter(claim.request_id[0] for claim in await worker.claim(20, ALL))
    assert next_ones["a"] in (9, 10, 11)


async def test_emptying_ones_lane_for_a_moment_earns_no_advantage(requests: RequestQueue, worker: WorkerQueue) -> None:
    """A tenant that sends one request at a time must not be served twice as often as one with a backlog."""
    for number in range(100):
        await requests.enqueue(make_job(f"a{number}", tenant="ann", cost_tokens=10))
    served: Counter[str] = Counter()
    await requests.enqueue(make_job("b0", tenant="bob", cost_tokens=40))
    for turn in range(1, 51):
        [claim] = await worker.claim(1, ALL)
        served[claim.request_id[0]] += 1
        if claim.request_id[0] == "b":
            await requests.enqueue(make_job(f"b{turn}", tenant="bob", cost_tokens=40))
    assert served["a"] >= 38


async def test_a_tenant_cannot_name_itself_into_the_continuation_lane(
    requests: RequestQueue, worker: WorkerQueue
) -> None:
    for number in range(4):
        await requests.enqueue(make_job(f"a{number}", tenant="ann"))
        await requests.enqueue(make_job(f"x{number}", tenant="~"))
    order = [claim.request_id[0] for claim in await worker.claim(4, ALL)]
    assert sorted(order) == ["a", "a", "x", "x"]


async def test_a_head_that_does_not_fit_is_waited_for_not_overtaken(
    requests: RequestQueue, worker: WorkerQueue, make_worker: MakeWorker
) -> None:
    await requests.enqueue(make_job("small", cost_tokens=100))
    await requests.enqueue(make_job("large", cost_tokens=900))
    await requests.enqueue(make_job("tiny", cost_tokens=1))
    assert [claim.request_id for claim in await worker.claim(8, 500)] == ["small"]
    assert await worker.claim(8, 500) == []
    roomy = make_worker("w2")
    assert [claim.request_id for claim in await roomy.claim(8, 1000)] == ["large", "tiny"]


async def test_orders_survive_lanes_that_empty_and_fill_again(
    redis: Redis, requests: RequestQueue, worker: WorkerQueue
) -> None:
    for round_ in range(5):
        for number in range(20):
            await requests.enqueue(make_job(f"{round_}.{number:02}", priority=number % 2, tenant=f"t{number % 3}"))
        claims = await worker.claim(100, ALL)
        assert len(claims) == 20
        assert [claim.priority for claim in claims] == [0] * 10 + [1] * 10
        for claim in claims:
            await finish(worker, claim, 1)
    assert await redis.keys("*lanes*") == await redis.keys("*prios*") == await redis.keys("*:q:*") == []
