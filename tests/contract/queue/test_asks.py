"""What a client asked for is kept beside its jobs: as long as they run, and as long as their logs can be read."""

import asyncio

import pytest
from queue_traffic import QUEUE, finish, make_job
from redis.asyncio import Redis

from headrace_shared.errors import OverloadedError
from headrace_shared.protocol.ask import Ask
from headrace_shared.queue import keys
from headrace_shared.queue.claims import WorkerQueue
from headrace_shared.queue.requests import EnqueueResult, IdempotencyKey, QueueLimits, RequestQueue

ALL = 10**9
ASK = Ask("chat", "cmpl-1", b'{"model": "m"}', 1700000000, owner="ann", job_ids=("cmpl-1.0", "cmpl-1.1"))


async def lifetime_ms(redis: Redis) -> int:
    return int(await redis.pttl(keys.ask(QUEUE, "cmpl-1")))


async def test_an_ask_is_found_by_its_own_id_on_whatever_queue_it_is(requests: RequestQueue) -> None:
    await requests.enqueue(make_job("cmpl-1.0"), ask=ASK)
    assert await requests.ask(QUEUE, "cmpl-1") == ASK
    assert await requests.find(["other.1", QUEUE, "third.2"], "cmpl-1") == (QUEUE, ASK)
    assert await requests.find(["other.1"], "cmpl-1") is None
    assert await requests.find([], "cmpl-1") is None
    assert await requests.ask(QUEUE, "cmpl-1.0") is None


async def test_an_ask_begins_to_expire_with_the_last_of_its_jobs(
    redis: Redis, requests: RequestQueue, worker: WorkerQueue
) -> None:
    for job_id in ASK.job_ids:
        await requests.enqueue(make_job(job_id), ask=ASK)
        await requests.enqueue(make_job(job_id), ask=ASK)  # repeating it counts once
    first, second = await worker.claim(2, ALL)
    await finish(worker, first, 1)
    assert await lifetime_ms(redis) == -1
    await finish(worker, second, 1)
    assert 0 < await lifetime_ms(redis) <= 600_000


@pytest.mark.parametrize("end", ["cancelled", "expired", "given up"])
async def test_an_ask_expires_however_its_job_ends(redis: Redis, worker: WorkerQueue, end: str) -> None:
    requests = RequestQueue(redis, QueueLimits(max_attempts=1))
    await requests.enqueue(make_job("cmpl-1.0"), ask=ASK, timeout_ms=60_000)
    if end == "cancelled":
        await requests.cancel(QUEUE, "cmpl-1.0", "x")
    elif end == "expired":
        await redis.zadd(f"{keys.base(QUEUE)}due", {"cmpl-1.0": 1})
        await worker.reap()
    else:
        await WorkerQueue(redis, QUEUE, "dead", 1).claim(1, ALL)
        await asyncio.sleep(0.01)
        await worker.reap()
    assert 0 < await lifetime_ms(redis) <= 600_000


async def test_a_job_that_comes_after_the_others_are_done_keeps_the_ask(
    redis: Redis, requests: RequestQueue, worker: WorkerQueue
) -> None:
    for job_id in ASK.job_ids:
        await requests.enqueue(make_job(job_id), ask=ASK)
        assert await lifetime_ms(redis) == -1
        [claim] = await worker.claim(1, ALL)
        await finish(worker, claim, 1)
        assert await lifetime_ms(redis) > 0


async def test_a_request_that_is_not_accepted_leaves_no_ask(redis: Redis) -> None:
    requests = RequestQueue(redis, QueueLimits(max_requests=1))
    key = IdempotencyKey("k", "print")
    await requests.enqueue(make_job("first"), idempotency=key)
    with pytest.raises(OverloadedError):
        await requests.enqueue(make_job("cmpl-1.0"), ask=ASK)
    answer = await requests.enqueue(make_job("cmpl-1.0"), idempotency=key, ask=ASK)
    assert answer.result is EnqueueResult.ATTACHED
    assert await redis.keys("*ask*") == []


async def test_an_ask_that_cannot_be_read_is_unknown(redis: Redis, requests: RequestQueue) -> None:
    await requests.enqueue(make_job("cmpl-1.0"), ask=ASK)
    await redis.hset(keys.ask(QUEUE, "cmpl-1"), mapping={"ask": b"\x02"})  # type: ignore[misc]
    assert await requests.ask(QUEUE, "cmpl-1") is None


async def test_the_holder_of_an_idempotency_key_is_known_until_the_key_is_free_again(
    requests: RequestQueue, worker: WorkerQueue
) -> None:
    mine, other = IdempotencyKey("k", "print"), IdempotencyKey("k", "another print")
    assert await requests.holder(QUEUE, "-", mine) is None
    await requests.enqueue(make_job("r"), idempotency=mine)
    assert await requests.holder(QUEUE, "-", mine) == ("r", True)
    assert await requests.holder(QUEUE, "-", other) == ("r", False)
    assert await requests.holder(QUEUE, "ann", mine) is None
    [claim] = await worker.claim(1, ALL)
    await requests.cancel(QUEUE, "r", "x")
    assert await requests.holder(QUEUE, "-", mine) is None
    await finish(worker, claim, 1)
    assert await requests.holder(QUEUE, "-", mine) is None


async def test_what_is_to_be_kept_longer_is(redis: Redis, requests: RequestQueue, worker: WorkerQueue) -> None:
    ask = Ask("responses", "cmpl-1", b"{}", 1, job_ids=("cmpl-1",), keep_s=5000)
    await requests.enqueue(make_job("cmpl-1"), ask=ask)
    [claim] = await worker.claim(1, ALL)
    await finish(worker, claim, 1)
    for key in (keys.ask(QUEUE, "cmpl-1"), keys.request(QUEUE, "cmpl-1"), keys.token_log(QUEUE, "cmpl-1")):
        assert 4_990_000 < await redis.pttl(key) <= 5_000_000


async def test_what_is_done_is_forgotten_without_a_trace(
    redis: Redis, requests: RequestQueue, worker: WorkerQueue
) -> None:
    before = {key async for key in redis.scan_iter("*")}
    for job_id in ASK.job_ids:
        await requests.enqueue(make_job(job_id), ask=ASK, idempotency=IdempotencyKey(job_id, "f"))
    for claim in await worker.claim(2, ALL):
        await finish(worker, claim, 1)
    await requests.forget(QUEUE, ASK)
    assert await requests.ask(QUEUE, "cmpl-1") is None
    left = {key.decode() async for key in redis.scan_iter("*")} - {key.decode() for key in before}
    assert not [key for key in left if "cmpl-1" in key or "idem:" in key]
    await requests.forget(QUEUE, ASK)  # a second time changes nothing


async def test_what_still_runs_is_forgotten_soon_after_its_end(
    redis: Redis, requests: RequestQueue, worker: WorkerQueue
) -> None:
    await requests.enqueue(make_job("cmpl-1.0"), ask=ASK)
    [claim] = await worker.claim(1, ALL)
    await requests.forget(QUEUE, ASK)
    assert await requests.ask(QUEUE, "cmpl-1") is None
    await finish(worker, claim, 1)
    assert await redis.exists(keys.ask(QUEUE, "cmpl-1")) == 0
    assert 0 < await redis.pttl(keys.token_log(QUEUE, "cmpl-1.0")) <= 60_000
