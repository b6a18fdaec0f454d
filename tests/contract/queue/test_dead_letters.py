"""Requests that were given up: looked at, tried again once, thrown away."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from queue_traffic import QUEUE, MakeWorker, ending, make_job, positions, serve, speak
from redis.asyncio import Redis

from headrace_shared.errors import HeadraceError, InvalidRequestError, NotFoundError
from headrace_shared.protocol.event import Finished
from headrace_shared.queue import keys
from headrace_shared.queue.claims import WorkerQueue
from headrace_shared.queue.dead_letters import DeadLetters
from headrace_shared.queue.hub import StreamHub
from headrace_shared.queue.requests import QueueLimits, RequestQueue

ALL = 10**9
Bury = Callable[..., Awaitable[None]]


@pytest.fixture
def letters(redis: Redis) -> DeadLetters:
    return DeadLetters(redis)


@pytest.fixture
def bury(redis: Redis, make_worker: MakeWorker) -> Bury:
    """``await bury("r", tokens=2, tenant="ann")``: a request that is given up after so many tokens."""
    requests = RequestQueue(redis, QueueLimits(max_attempts=1, replay_ttl_s=77, tenant_weights={"ann": 2.5}))

    async def kill(request_id: str, *, tokens: int = 0, **header: object) -> None:
        await requests.enqueue(make_job(request_id, **header))
        # The victim itself says too little to be taken for one that the request has not killed.
        earlier = max(tokens - 5, 0)
        leaving = make_worker(f"worker before the victim of {request_id}")
        [claim] = await leaving.claim(1, ALL)
        await speak(leaving, claim, *range(earlier))
        await leaving.release()
        victim = make_worker(f"victim of {request_id}", lease_ms=1)
        [claim] = await victim.claim(1, ALL)
        await speak(victim, claim, *range(earlier, tokens))
        await asyncio.sleep(0.01)
        await make_worker("reaper").reap()

    return kill


async def test_an_entry_says_what_was_lost_with_whom_and_how_far_it_had_come(bury: Bury, letters: DeadLetters) -> None:
    await bury("r", tokens=20, tenant="ann", priority=-3)
    [letter] = await letters.list(QUEUE)
    assert (letter.request_id, letter.worker, letter.lost, letter.seq) == ("r", "victim of r", 1, 20)
    assert letter.job == make_job("r", tenant="ann", priority=-3)
    assert positions(letter.tail) == list(range(12, 20))
    assert letter.died_ms > 0
    assert await letters.get(QUEUE, letter.entry_id) == letter
    assert await letters.get(QUEUE, "1-1") is None


async def test_entries_are_listed_newest_first_in_pages(bury: Bury, letters: DeadLetters) -> None:
    for n in range(5):
        await bury(f"r{n}")
    first = await letters.list(QUEUE, count=2)
    rest = await letters.list(QUEUE, before=first[-1].entry_id)
    assert [letter.request_id for letter in first + rest] == ["r4", "r3", "r2", "r1", "r0"]
    assert await letters.list("other.1") == []


async def test_what_is_tried_again_is_a_new_request_that_can_succeed(
    bury: Bury, letters: DeadLetters, redis: Redis, worker: WorkerQueue, hub: StreamHub
) -> None:
    await bury("r", tokens=2, tenant="ann", priority=-3)
    await redis.hset(keys.pace(QUEUE), "aging", "1234")  # type: ignore[misc]
    [letter] = await letters.list(QUEUE)
    request_id = await letters.retry(QUEUE, letter.entry_id)
    assert request_id != "r"
    assert await letters.list(QUEUE) == []
    stored = await redis.hmget(keys.request(QUEUE, request_id), ["max", "ttl", "weight"])  # type: ignore[misc]
    assert stored == [b"1", b"77000", b"2.5"]
    assert await redis.hget(keys.pace(QUEUE), "aging") == b"1234"  # type: ignore[misc]
    [claim] = await worker.claim(8, ALL)
    assert (claim.request_id, claim.seq, claim.attempt, claim.priority) == (request_id, 0, 1, -3)
    expected = make_job(request_id, tenant="ann", priority=-3, detached=True)
    assert claim.job == expected
    await serve(worker, claim, 3)
    stream = await hub.open(QUEUE, request_id)
    await stream.replay_from(0)
    assert isinstance(ending([event async for frame in stream for event in frame]), Finished)


async def test_of_many_who_try_it_again_at_once_one_does(
    bury: Bury, letters: DeadLetters, requests: RequestQueue
) -> None:
    await bury("r")
    [letter] = await letters.list(QUEUE)

    async def retry() -> bool:
        try:
            await letters.retry(QUEUE, letter.entry_id)
        except NotFoundError:
            return False
        return True

    assert sorted(await asyncio.gather(*(retry() for _ in range(10)))) == [False] * 9 + [True]
    assert (await requests.depth(QUEUE)).queued_requests == 1


async def test_a_full_queue_does_not_hold_a_retry_back(bury: Bury, letters: DeadLetters, redis: Redis) -> None:
    await bury("r")
    requests = RequestQueue(redis, QueueLimits(max_requests=1))
    await requests.enqueue(make_job("fills it"))
    [letter] = await letters.list(QUEUE)
    await letters.retry(QUEUE, letter.entry_id)
    assert (await requests.depth(QUEUE)).queued_requests == 2


async def test_a_job_that_cannot_be_read_is_listed_but_not_tried_again(letters: DeadLetters, redis: Redis) -> None:
    fields = {"r": "r", "worker": "w", "lost": "1", "seq": "0", "body": "?"}
    await redis.xadd(keys.dead_letters(QUEUE), fields)  # type: ignore[arg-type]
    [letter] = await letters.list(QUEUE)
    assert letter.job is None
    with pytest.raises(InvalidRequestError):
        await letters.retry(QUEUE, letter.entry_id)
    assert await letters.list(QUEUE) == [letter]


async def test_entries_are_purged_by_name_or_all(bury: Bury, letters: DeadLetters) -> None:
    for n in range(4):
        await bury(f"r{n}")
    newest, oldest = (await letters.list(QUEUE))[::3]
    assert await letters.purge(QUEUE, []) == 0
    assert await letters.purge(QUEUE, [newest.entry_id, oldest.entry_id, "1-1"]) == 2
    assert [letter.request_id for letter in await letters.list(QUEUE)] == ["r2", "r1"]
    assert await letters.purge(QUEUE) == 2
    assert await letters.list(QUEUE) == []


@pytest.mark.parametrize("entry_id", ["", "x", "1", "1-1 2-2", "-"])
async def test_what_is_no_entry_id_is_refused(letters: DeadLetters, entry_id: str) -> None:
    for call in (letters.get(QUEUE, entry_id), letters.retry(QUEUE, entry_id), letters.purge(QUEUE, [entry_id])):
        with pytest.raises(HeadraceError):
            await call
