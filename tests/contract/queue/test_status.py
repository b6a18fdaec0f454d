"""What can be known of a request and of a queue: states, positions, bounds per tenant, rates."""

import asyncio

import pytest
from queue_traffic import QUEUE, finish, make_job, speak
from redis.asyncio import Redis

from headrace_shared.errors import OverloadedError
from headrace_shared.protocol.event import Started
from headrace_shared.queue import keys
from headrace_shared.queue.claims import FrameOut, WorkerQueue
from headrace_shared.queue.requests import QueueLimits, RequestQueue
from headrace_shared.queue.status import Backlog, RequestPhase, RequestState, drain_rate, retry_after_s

ALL = 10**9


async def state(requests: RequestQueue, request_id: str) -> RequestState:
    found = await requests.state(QUEUE, request_id)
    assert found is not None
    return found


async def test_a_requests_life_can_be_followed(requests: RequestQueue, worker: WorkerQueue) -> None:
    assert await requests.state(QUEUE, "r") is None
    await requests.enqueue(make_job("r", priority=-2, tenant="ann"))
    found = await state(requests, "r")
    assert (found.phase, found.priority, found.tenant, found.attempts) == (RequestPhase.QUEUED, -2, "ann", 0)
    assert (found.claimed_ms, found.first_token_ms, found.finished_ms, found.ahead) == (None, None, None, 0)

    [claim] = await worker.claim(1, ALL)
    await worker.append([FrameOut("r", claim.epoch, 1, [Started("w1")])])
    found = await state(requests, "r")
    assert (found.phase, found.claimed_ms) == (RequestPhase.RUNNING, claim.claimed_ms)
    assert (found.first_token_ms, found.ahead) == (None, None)
    await speak(worker, claim, 0, first_seq=2)
    first = (await state(requests, "r")).first_token_ms
    assert first is not None
    assert first >= claim.claimed_ms
    await worker.release()
    found = await state(requests, "r")
    assert (found.phase, found.ahead, found.tenant, found.lost_workers) == (RequestPhase.RESUMING, 0, "ann", 0)
    [claim] = await worker.claim(1, ALL)
    await finish(worker, claim, 3)
    found = await state(requests, "r")
    assert (found.phase, found.attempts, found.seq, found.first_token_ms) == (RequestPhase.FINISHED, 2, 3, first)
    assert found.finished_ms is not None
    assert found.finished_ms >= first


async def test_a_cancelled_request_has_failed(requests: RequestQueue, worker: WorkerQueue) -> None:
    await requests.enqueue(make_job("queued"))
    await requests.cancel(QUEUE, "queued", "x")
    assert (await state(requests, "queued")).phase is RequestPhase.FAILED
    await requests.enqueue(make_job("running"))
    await worker.claim(1, ALL)
    await requests.cancel(QUEUE, "running", "x")
    found = await state(requests, "running")
    assert (found.phase, found.cancel_requested) == (RequestPhase.RUNNING, True)


async def test_the_position_counts_those_before_it_and_moves_up(requests: RequestQueue, worker: WorkerQueue) -> None:
    for n in range(10):
        await requests.enqueue(make_job(f"r{n}"))
    await requests.enqueue(make_job("late", priority=5))
    assert [(await state(requests, f"r{n}")).ahead for n in (0, 3, 9)] == [0, 3, 9]
    assert (await state(requests, "late")).ahead == 10
    await requests.enqueue(make_job("urgent", priority=-1))
    assert (await state(requests, "r3")).ahead == 4
    assert (await state(requests, "late")).ahead == 11
    await worker.claim(4, ALL)
    await requests.cancel(QUEUE, "r3", "x")
    assert (await state(requests, "r4")).ahead == 0
    assert (await state(requests, "late")).ahead == 6
    await worker.claim(6, ALL)
    assert (await state(requests, "late")).ahead == 0
    await requests.enqueue(make_job("new"))
    assert (await state(requests, "new")).ahead == 0


async def test_a_tenant_has_its_own_bounds(redis: Redis, worker: WorkerQueue) -> None:
    requests = RequestQueue(redis, QueueLimits(tenant_max_requests=2, tenant_max_tokens=100))
    await requests.enqueue(make_job("a0", tenant="ann", cost_tokens=500))
    with pytest.raises(OverloadedError, match=r"tenant.*1 requests with 500 tokens"):
        await requests.enqueue(make_job("a1", tenant="ann", cost_tokens=1))
    for n in range(2):
        await requests.enqueue(make_job(f"b{n}", tenant="bob"))
    with pytest.raises(OverloadedError, match=r"tenant.*2 requests"):
        await requests.enqueue(make_job("b2", tenant="bob"))
    await worker.claim(1, ALL)
    await requests.enqueue(make_job("a1", tenant="ann"))
    await requests.cancel(QUEUE, "b0", "x")
    await requests.enqueue(make_job("b2", tenant="bob"))
    await requests.cancel(QUEUE, "b2", "x")
    await worker.claim(9, ALL)
    assert await redis.exists(f"{keys.base(QUEUE)}tenants") == 0


async def test_a_tenants_share_counts_what_waits_to_be_continued(redis: Redis, worker: WorkerQueue) -> None:
    requests = RequestQueue(redis, QueueLimits(tenant_max_requests=1))
    await requests.enqueue(make_job("a0", tenant="ann"))
    await worker.claim(1, ALL)
    await worker.release()
    with pytest.raises(OverloadedError, match="tenant"):
        await requests.enqueue(make_job("a1", tenant="ann"))


async def test_the_backlog_is_measured_in_requests_tokens_age_and_rate(
    requests: RequestQueue, worker: WorkerQueue
) -> None:
    assert await requests.backlog(QUEUE) == Backlog(0, 0, 0, 0, None)
    for n in range(50):
        await requests.enqueue(make_job(f"r{n}", cost_tokens=100))
    for _ in range(6):
        claims = await worker.claim(5, ALL)
        await asyncio.sleep(0.05)
        for claim in claims:
            await finish(worker, claim, 1)
    backlog = await requests.backlog(QUEUE)
    assert (backlog.queued_requests, backlog.queued_tokens, backlog.running) == (20, 2000, 0)
    assert backlog.oldest_ms >= 300
    assert backlog.tokens_per_s is not None
    assert 0 < backlog.tokens_per_s <= 10_000  # at most 500 tokens each 50 ms
    found = await state(requests, "r49")
    assert found.ahead == 19
    assert found.eta_ms == pytest.approx(19 * 100 / backlog.tokens_per_s * 1000, rel=0.01)


async def test_time_without_work_does_not_lower_the_rate(
    redis: Redis, requests: RequestQueue, worker: WorkerQueue
) -> None:
    async def busy_ms(request_id: str) -> float:
        await requests.enqueue(make_job(request_id))
        [claim] = await worker.claim(1, ALL)
        await finish(worker, claim, 1)
        return float(await redis.hget(keys.pace(QUEUE), "busy") or 0)  # type: ignore[misc]

    first = await busy_ms("r0")
    await asyncio.sleep(1.0)
    assert await busy_ms("r1") - first < 900


async def test_a_full_queue_says_when_to_come_back(redis: Redis) -> None:
    requests = RequestQueue(redis, QueueLimits(max_requests=20))
    await redis.hset(keys.pace(QUEUE), mapping={"work": 5000, "busy": 10_000})  # type: ignore[misc]
    for n in range(20):
        await requests.enqueue(make_job(f"r{n}", cost_tokens=1000))
    with pytest.raises(OverloadedError) as caught:
        await requests.enqueue(make_job("late"))
    assert caught.value.retry_after_s == pytest.approx(20_000 * 0.1 / 500)


def test_estimates_are_bounded_and_admit_ignorance() -> None:
    assert drain_rate(None, None) is None
    assert drain_rate(b"500", b"10") is None
    assert drain_rate(b"500", b"1000") == 500
    assert retry_after_s(10**9, None) == 1
    assert retry_after_s(10**9, 1.0) == 60
    assert retry_after_s(5, 1000.0) == 1


async def test_reading_a_state_changes_nothing(redis: Redis, requests: RequestQueue) -> None:
    await requests.enqueue(make_job("r"))
    before = {key: await redis.dump(key) for key in await redis.keys("*")}
    await requests.state(QUEUE, "r")
    await requests.state(QUEUE, "unknown")
    await requests.backlog(QUEUE)
    assert {key: await redis.dump(key) for key in await redis.keys("*")} == before


async def test_a_survey_tells_how_old_each_priority_is_while_there_are_few_tenants(requests: RequestQueue) -> None:
    for number, (priority, tenant) in enumerate([(5, "ann"), (5, "bob"), (0, "ann")]):
        await requests.enqueue(make_job(f"r{number}", priority=priority, tenant=tenant))
        await asyncio.sleep(0.03)
    await requests.cancel(QUEUE, "r0", "x")
    by_priority = (await requests.survey(QUEUE, 10)).by_priority
    assert [(priority, lane.requests) for priority, lane in by_priority.items()] == [(0, 1), (5, 1)]
    urgent, patient = (by_priority[priority].oldest_ms for priority in (0, 5))
    assert urgent is not None
    assert patient is not None
    assert 25 <= urgent < patient
    assert abs(patient - (await requests.backlog(QUEUE)).oldest_ms) < 200

    for number in range(130):
        await requests.enqueue(make_job(f"many{number}", priority=9, tenant=f"t{number}"))
    by_priority = (await requests.survey(QUEUE, 10)).by_priority
    assert (by_priority[9].requests, by_priority[9].oldest_ms) == (130, None)
    assert by_priority[0].oldest_ms is not None
