"""The same request said twice runs once."""

import asyncio

import pytest
from queue_traffic import QUEUE, MakeWorker, finish, make_job, serve
from redis.asyncio import Redis

from headrace_shared.errors import ErrorCode, OverloadedError
from headrace_shared.protocol.event import Failed
from headrace_shared.queue.claims import FrameOut, WorkerQueue
from headrace_shared.queue.requests import EnqueueResult, IdempotencyKey, QueueLimits, RequestQueue

ALL = 10**9
KEY = IdempotencyKey("order 66", "body 1")
OTHER_BODY = IdempotencyKey("order 66", "body 2")


async def test_a_repeated_key_names_the_request_that_has_it_while_it_waits_runs_and_is_done(
    requests: RequestQueue, worker: WorkerQueue
) -> None:
    assert (await requests.enqueue(make_job("first"), idempotency=KEY)).result is EnqueueResult.NEW

    async def again(request_id: str) -> None:
        answer = await requests.enqueue(make_job(request_id), idempotency=KEY)
        assert (answer.result, answer.request_id) == (EnqueueResult.ATTACHED, "first")

    await again("while queued")
    [claim] = await worker.claim(9, ALL)
    await again("while running")
    await serve(worker, claim, 3)
    await again("when done")
    assert await worker.claim(9, ALL) == []
    assert (await requests.depth(QUEUE)).queued_requests == 0


async def test_another_body_under_the_same_key_is_a_conflict_that_changes_nothing(requests: RequestQueue) -> None:
    await requests.enqueue(make_job("first"), idempotency=KEY)
    answer = await requests.enqueue(make_job("second"), idempotency=OTHER_BODY)
    assert (answer.result, answer.request_id) == (EnqueueResult.CONFLICT, "first")
    assert (await requests.depth(QUEUE)).queued_requests == 1
    assert (await requests.enqueue(make_job("third"), idempotency=KEY)).result is EnqueueResult.ATTACHED


async def test_keys_belong_to_their_tenant(requests: RequestQueue) -> None:
    for tenant, key in (("a", "bc"), ("ab", "c"), ("", "abc")):
        job = make_job(f"r{tenant}", tenant=tenant)
        assert (await requests.enqueue(job, idempotency=IdempotencyKey(key, "x"))).result is EnqueueResult.NEW


async def test_of_many_at_once_one_runs(requests: RequestQueue, worker: WorkerQueue) -> None:
    answers = await asyncio.gather(*(requests.enqueue(make_job(f"r{n}"), idempotency=KEY) for n in range(30)))
    assert sorted(a.result for a in answers) == [EnqueueResult.ATTACHED] * 29 + [EnqueueResult.NEW]
    assert len({a.request_id for a in answers}) == 1
    assert len(await worker.claim(30, ALL)) == 1


async def test_a_lost_reply_of_the_first_call_is_a_duplicate_not_an_attachment(requests: RequestQueue) -> None:
    await requests.enqueue(make_job("first"), idempotency=KEY)
    assert (await requests.enqueue(make_job("first"), idempotency=KEY)).result is EnqueueResult.DUPLICATE


@pytest.mark.parametrize("state", ["queued", "running", "failed"])
async def test_a_request_without_an_answer_frees_its_key(
    requests: RequestQueue, worker: WorkerQueue, state: str
) -> None:
    await requests.enqueue(make_job("first"), idempotency=KEY)
    claims = [] if state == "queued" else await worker.claim(1, ALL)
    if state == "failed":
        failed = Failed(ErrorCode.INTERNAL, "x")
        await worker.append([FrameOut("first", claims[0].epoch, 1, [failed], final=True)])
    else:
        await requests.cancel(QUEUE, "first", "client left")
    assert (await requests.enqueue(make_job("second"), idempotency=KEY)).result is EnqueueResult.NEW
    if state == "running":
        await finish(worker, claims[0], 1)
    answer = await requests.enqueue(make_job("third"), idempotency=KEY)
    assert (answer.result, answer.request_id) == (EnqueueResult.ATTACHED, "second")


async def test_the_key_lives_as_long_as_the_answer(redis: Redis, worker: WorkerQueue) -> None:
    requests = RequestQueue(redis, QueueLimits(replay_ttl_s=1))
    await requests.enqueue(make_job("first"), idempotency=KEY)
    [claim] = await worker.claim(1, ALL)
    await finish(worker, claim, 1)
    assert (await requests.enqueue(make_job("second"), idempotency=KEY)).result is EnqueueResult.ATTACHED
    await asyncio.sleep(1.05)
    assert (await requests.enqueue(make_job("second"), idempotency=KEY)).result is EnqueueResult.NEW


async def test_a_refused_request_does_not_take_the_key(redis: Redis, make_worker: MakeWorker) -> None:
    requests = RequestQueue(redis, QueueLimits(max_requests=1))
    await requests.enqueue(make_job("other"))
    with pytest.raises(OverloadedError):
        await requests.enqueue(make_job("first"), idempotency=KEY)
    await make_worker().claim(1, ALL)
    assert (await requests.enqueue(make_job("first"), idempotency=KEY)).result is EnqueueResult.NEW
