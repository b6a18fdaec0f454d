"""Requests whose prompt a worker has cached are offered to it first, for a moment, without changing the order."""

import asyncio

import pytest
from queue_traffic import MakeWorker, finish, make_job
from redis.asyncio import Redis

from headrace_shared.queue.claims import WorkerQueue
from headrace_shared.queue.requests import QueueLimits, RequestQueue

ALL = 10**9
HOLD_MS = 300
SHORT, LONG, OTHER = b"short" * 4, b"long" * 8, b"other" * 4


@pytest.fixture
def requests(redis: Redis) -> RequestQueue:
    return RequestQueue(redis, QueueLimits(affinity_hold_ms=HOLD_MS))


async def names(worker: WorkerQueue, want: int = 4) -> list[str]:
    return [claim.request_id for claim in await worker.claim(want, ALL)]


async def an_owner_of_the_prompt(requests: RequestQueue, owner: WorkerQueue, other: WorkerQueue) -> None:
    """Both are idle afterwards, and ``owner`` has served a prompt that begins so."""
    assert await names(other) == []
    await requests.enqueue(make_job("first", affinity=(SHORT, LONG)))
    [claim] = await owner.claim(4, ALL)
    await finish(owner, claim, 1)


async def test_the_second_request_of_a_prompt_goes_to_the_worker_of_the_first(
    requests: RequestQueue, make_worker: MakeWorker
) -> None:
    owner, other = make_worker("owner"), make_worker("other")
    await an_owner_of_the_prompt(requests, owner, other)
    await requests.enqueue(make_job("second", affinity=(SHORT, LONG)))
    await requests.enqueue(make_job("third"))
    assert await names(other) == []
    assert other.ask_again_s is not None
    assert 0 < other.ask_again_s <= HOLD_MS / 1000
    assert await names(owner) == ["second", "third"]
    assert await names(other) == []
    assert other.ask_again_s is None


async def test_the_longest_beginning_decides(requests: RequestQueue, make_worker: MakeWorker) -> None:
    owner, other = make_worker("owner"), make_worker("other")
    await an_owner_of_the_prompt(requests, owner, other)
    await requests.enqueue(make_job("longer", affinity=(OTHER,)))
    [claim] = await other.claim(1, ALL)
    await finish(other, claim, 1)
    assert await names(other) == []  # so that it has room
    await requests.enqueue(make_job("second", affinity=(SHORT, OTHER)))
    assert await names(owner) == []
    assert await names(other) == ["second"]


async def test_a_silent_owner_is_waited_for_no_longer_than_the_hold(
    requests: RequestQueue, make_worker: MakeWorker
) -> None:
    owner, other = make_worker("owner"), make_worker("other")
    await an_owner_of_the_prompt(requests, owner, other)
    await requests.enqueue(make_job("second", affinity=(SHORT, LONG)))
    assert await names(other) == []
    await asyncio.sleep((other.ask_again_s or 0) + 0.005)
    assert await names(other) == ["second"]


async def test_a_full_owner_is_not_waited_for(requests: RequestQueue, make_worker: MakeWorker) -> None:
    owner, other = make_worker("owner"), make_worker("other")
    await an_owner_of_the_prompt(requests, owner, other)
    await requests.enqueue(make_job("filler"))
    assert await names(owner, want=1) == ["filler"]
    await requests.enqueue(make_job("second", affinity=(SHORT, LONG)))
    assert await names(other) == ["second"]


async def test_an_owner_that_waits_for_memory_is_not_waited_for(
    requests: RequestQueue, make_worker: MakeWorker
) -> None:
    owner, other = make_worker("owner"), make_worker("other")
    await an_owner_of_the_prompt(requests, owner, other)
    await requests.enqueue(make_job("second", affinity=(SHORT, LONG), cost_tokens=100))
    assert await owner.claim(4, 99) == []
    assert await names(other) == ["second"]


async def test_a_dead_owner_is_not_waited_for(requests: RequestQueue, make_worker: MakeWorker) -> None:
    owner, other = make_worker("owner", lease_ms=1), make_worker("other")
    await an_owner_of_the_prompt(requests, owner, other)
    await asyncio.sleep(0.01)
    await requests.enqueue(make_job("second", affinity=(SHORT, LONG)))
    assert await names(other) == ["second"]


async def test_without_a_hold_whoever_asks_first_gets_it(redis: Redis, make_worker: MakeWorker) -> None:
    requests = RequestQueue(redis, QueueLimits(affinity_hold_ms=0))
    owner, other = make_worker("owner"), make_worker("other")
    await an_owner_of_the_prompt(requests, owner, other)
    await requests.enqueue(make_job("second", affinity=(SHORT, LONG)))
    assert await names(other) == ["second"]
    assert await redis.keys("*aff*") == []


async def test_a_lone_worker_neither_waits_nor_is_remembered(
    redis: Redis, requests: RequestQueue, worker: WorkerQueue
) -> None:
    for n in range(3):
        await requests.enqueue(make_job(f"r{n}", affinity=(SHORT, LONG)))
        assert await names(worker) == [f"r{n}"]
    assert await redis.keys("*aff*") == []


async def test_what_was_taken_before_the_one_that_is_held_rings_for_its_owner(
    requests: RequestQueue, make_worker: MakeWorker
) -> None:
    owner, other = make_worker("owner"), make_worker("other")
    await an_owner_of_the_prompt(requests, owner, other)
    await requests.enqueue(make_job("anybody's"))
    await requests.enqueue(make_job("held", affinity=(SHORT, LONG)))
    messages = owner.control()
    await anext(messages)
    reader = asyncio.ensure_future(anext(messages))
    await asyncio.wait({reader}, timeout=0.1)  # the connection's own ring
    if reader.done():
        reader = asyncio.ensure_future(anext(messages))
    assert await names(other) == ["anybody's"]
    await asyncio.wait_for(reader, 2)
    assert await names(owner) == ["held"]
    await messages.aclose()  # type: ignore[attr-defined]
