"""Dead workers, zombies, poison: who owns a request, and who goes on with it."""

import asyncio

import pytest
from queue_traffic import (
    FINISHED,
    QUEUE,
    MakeWorker,
    ending,
    finish,
    make_job,
    positions,
    serve,
    speak,
    token,
)
from redis.asyncio import Redis
from tcp_proxy import TcpProxy

from headrace_shared.errors import ErrorCode, UnavailableError
from headrace_shared.protocol.event import Failed, Finished
from headrace_shared.queue import keys
from headrace_shared.queue.claims import AppendStatus, FrameOut, WorkerQueue
from headrace_shared.queue.client import connect
from headrace_shared.queue.hub import StreamHub
from headrace_shared.queue.requests import QueueLimits, RequestQueue
from headrace_shared.queue.status import QueueDepth
from headrace_shared.settings import RedisSettings

ALL = 10**9
LEASE_MS = 300


async def lease_ends() -> None:
    await asyncio.sleep(LEASE_MS / 1000 + 0.05)


async def test_a_dead_workers_requests_go_on_elsewhere_after_their_last_token(
    requests: RequestQueue, make_worker: MakeWorker, hub: StreamHub
) -> None:
    streams = [await hub.open(QUEUE, f"r{n}") for n in range(3)]
    for n in range(3):
        await requests.enqueue(make_job(f"r{n}"))
    dead, heir = make_worker("dead", lease_ms=LEASE_MS), make_worker("heir")
    for claim in await dead.claim(8, ALL):
        await speak(dead, claim, 0, 1, 2, 3)
    assert await heir.reap() == 0
    await lease_ends()
    assert await heir.reap() == 3
    claims = await heir.claim(8, ALL)
    assert [(c.request_id, c.attempt, c.seq) for c in claims] == [(f"r{n}", 2, 4) for n in range(3)]
    for claim in claims:
        assert positions(claim.log) == [0, 1, 2, 3]
        await serve(heir, claim, tokens=10)
    for stream in streams:
        events = [event async for frame in stream for event in frame]
        assert positions(events) == list(range(10))
        assert isinstance(ending(events), Finished)
    assert await requests.depth(QUEUE) == QueueDepth(0, 0, 0)


async def test_a_zombie_cannot_say_another_word(requests: RequestQueue, make_worker: MakeWorker) -> None:
    await requests.enqueue(make_job("r"))
    zombie, heir = make_worker("zombie", lease_ms=LEASE_MS), make_worker("heir")
    [old] = await zombie.claim(1, ALL)
    await speak(zombie, old, 0)
    await lease_ends()
    await heir.reap()
    between = await speak(zombie, old, 1, first_seq=2)
    [new] = await heir.claim(1, ALL)
    after = await speak(zombie, old, 1, first_seq=2)
    repeated = await speak(zombie, old, 0, first_seq=1)
    assert {a.status for a in between + after + repeated} == {AppendStatus.FENCED}
    assert (await finish(zombie, old, 2)).status is AppendStatus.FENCED
    await serve(heir, new, tokens=5)
    assert (await finish(zombie, old, 2)).status is AppendStatus.FENCED


async def test_a_zombie_that_claims_its_own_request_again_is_fenced_by_epoch(
    requests: RequestQueue, make_worker: MakeWorker
) -> None:
    await requests.enqueue(make_job("r"))
    worker = make_worker("w", lease_ms=LEASE_MS)
    [old] = await worker.claim(1, ALL)
    await lease_ends()
    assert await make_worker("other").reap() == 1
    [new] = await worker.claim(1, ALL)
    assert new.epoch > old.epoch
    assert [a.status for a in await speak(worker, old, 0)] == [AppendStatus.FENCED]
    assert [a.status for a in await speak(worker, new, 0)] == [AppendStatus.OK]


async def test_a_lease_lives_while_it_is_renewed_by_any_call(requests: RequestQueue, make_worker: MakeWorker) -> None:
    await requests.enqueue(make_job("r"))
    worker, other = make_worker("w", lease_ms=LEASE_MS), make_worker("other")
    [claim] = await worker.claim(1, ALL)
    for position in range(2):
        await asyncio.sleep(LEASE_MS / 3000)
        await speak(worker, claim, position, first_seq=position + 1)
        await asyncio.sleep(LEASE_MS / 3000)
        await worker.renew()
        await worker.reap()
        assert await other.reap() == 0


async def test_continuations_come_before_fresh_requests_of_their_level_and_keep_their_order(
    requests: RequestQueue, make_worker: MakeWorker
) -> None:
    for n in range(4):
        await requests.enqueue(make_job(f"old{n}"))
    worker = make_worker("w1")
    await worker.claim(4, ALL)
    await requests.enqueue(make_job("fresh"))
    await requests.enqueue(make_job("urgent", priority=-1))
    assert await worker.release() == 4
    claims = await make_worker("w2").claim(9, ALL)
    assert [c.request_id for c in claims] == ["urgent", "old0", "old1", "old2", "old3", "fresh"]


async def test_giving_back_is_not_counted_as_losing(requests: RequestQueue, make_worker: MakeWorker) -> None:
    await requests.enqueue(make_job("r"))
    for n in range(20):
        worker = make_worker(f"w{n}")
        [claim] = await worker.claim(1, ALL)
        assert claim.attempt == n + 1
        assert await worker.release() == 1


async def test_a_request_that_kills_its_workers_is_given_up_with_evidence(
    redis: Redis, make_worker: MakeWorker, hub: StreamHub
) -> None:
    requests = RequestQueue(redis, QueueLimits(max_attempts=3))
    stream = await hub.open(QUEUE, "poison")
    await requests.enqueue(make_job("poison"))
    reaper = make_worker("reaper")
    for n in range(3):
        victim = make_worker(f"victim{n}", lease_ms=1)
        [claim] = await victim.claim(1, ALL)
        await speak(victim, claim, n)
        await asyncio.sleep(0.01)
        await reaper.reap()
    assert await reaper.claim(9, ALL) == []
    events = [event async for frame in stream for event in frame]
    assert positions(events) == [0, 1, 2]
    assert ending(events) == Failed(ErrorCode.POISONED, ending(events).message)  # type: ignore[union-attr]
    [(_, evidence)] = await redis.xrange(f"{keys.base(QUEUE)}dlq")
    assert evidence[b"r"] == b"poison"
    assert evidence[b"lost"] == b"3"
    assert evidence[b"body"]
    assert await requests.depth(QUEUE) == QueueDepth(0, 0, 0)


async def test_losses_after_much_progress_convict_nobody(redis: Redis, make_worker: MakeWorker, hub: StreamHub) -> None:
    requests = RequestQueue(redis, QueueLimits(max_attempts=2))
    stream = await hub.open(QUEUE, "long")
    await requests.enqueue(make_job("long"))
    reaper = make_worker("reaper")
    for n in range(8):
        victim = make_worker(f"victim{n}", lease_ms=1)
        [claim] = await victim.claim(1, ALL)
        await speak(victim, claim, *range(8 * n, 8 * n + 8))
        await asyncio.sleep(0.01)
        await reaper.reap()
    [claim] = await reaper.claim(1, ALL)
    await finish(reaper, claim, claim.seq + 1)
    events = [event async for frame in stream for event in frame]
    assert positions(events) == list(range(64))
    assert isinstance(ending(events), Finished)


@pytest.mark.parametrize("poisons", [{11}, {0, 1, 2}, {3, 9, 27}, {30, 31, 32}])
async def test_requests_that_kill_their_workers_convict_none_of_their_neighbours(
    redis: Redis, make_worker: MakeWorker, hub: StreamHub, poisons: set[int]
) -> None:
    """Whoever holds one dies at once, with everything else that it holds; a few workers live at any time."""
    requests = RequestQueue(redis, QueueLimits())
    names = [f"poison{n}" if n in poisons else f"r{n}" for n in range(33)]
    streams = {name: await hub.open(QUEUE, name) for name in names}
    for name in names:
        await requests.enqueue(make_job(name))
    reaper = make_worker("reaper")
    deaths = 0
    while (await requests.depth(QUEUE)).queued_requests:
        for worker in [make_worker(f"w{deaths}.{n}", lease_ms=1) for n in range(3)]:
            claims = await worker.claim(8, ALL)
            if any(claim.request_id.startswith("poison") for claim in claims):
                deaths += 1
                continue
            for claim in claims:
                await finish(worker, claim, claim.seq + 1)
        await asyncio.sleep(0.005)
        await reaper.reap()
    ends = {name: ending([e async for frame in stream for e in frame]) for name, stream in streams.items()}
    assert deaths <= QueueLimits().max_attempts * len(poisons)
    failed = {name: end for name, end in ends.items() if isinstance(end, Failed)}
    assert set(failed) == {f"poison{n}" for n in poisons}
    assert {end.code for end in failed.values()} == {ErrorCode.POISONED}
    assert await redis.xlen(keys.dead_letters(QUEUE)) == len(poisons)


async def test_a_suspect_is_not_convicted_with_poison_that_comes_later(
    redis: Redis, make_worker: MakeWorker, hub: StreamHub
) -> None:
    requests = RequestQueue(redis, QueueLimits())
    stream = await hub.open(QUEUE, "innocent")
    await requests.enqueue(make_job("innocent"))
    reaper = make_worker("reaper")
    for round_number in range(12):
        worker = make_worker(f"w{round_number}", lease_ms=1)
        claims = await worker.claim(8, ALL)
        unlucky = round_number < 2
        if not unlucky and not any(claim.request_id == "poison" for claim in claims):
            for claim in claims:
                await finish(worker, claim, claim.seq + 1)
        await asyncio.sleep(0.005)
        await reaper.reap()
        if round_number == 1:
            await requests.enqueue(make_job("poison", priority=-1))
    assert isinstance(ending([event async for frame in stream for event in frame]), Finished)
    assert await redis.xlen(keys.dead_letters(QUEUE)) == 1


async def test_a_suspect_is_kept_apart_until_it_has_run_well_for_a_while(redis: Redis, make_worker: MakeWorker) -> None:
    requests = RequestQueue(redis, QueueLimits(max_attempts=3))
    for n in range(3):
        await requests.enqueue(make_job(f"s{n}"))
    await make_worker("dead", lease_ms=1).claim(8, ALL)
    await asyncio.sleep(0.01)
    await make_worker("reaper").reap()
    await requests.enqueue(make_job("urgent", priority=-1))
    await requests.enqueue(make_job("same level"))
    first, second = make_worker("first"), make_worker("second")
    [urgent] = await first.claim(8, ALL)
    assert (urgent.request_id, first.ask_again_s) == ("urgent", 0.1)
    assert await first.claim(8, ALL) == []  # a suspect is next, and may not come beside it
    await speak(first, urgent, *range(8))
    [suspect] = await first.claim(8, ALL)
    assert suspect.request_id == "s0"
    assert await first.claim(8, ALL) == []
    [other] = await second.claim(8, ALL)
    assert other.request_id == "s1"
    await finish(second, other, 1)
    assert [c.request_id for c in await second.claim(8, ALL)] == ["s2"]
    await speak(first, suspect, *range(8))
    assert [c.request_id for c in await first.claim(8, ALL)] == ["same level"]


async def test_hundreds_of_requests_of_many_dead_workers_are_all_put_back(
    requests: RequestQueue, make_worker: MakeWorker
) -> None:
    for n in range(300):
        await requests.enqueue(make_job(f"r{n}"))
    for n in range(3):
        await make_worker(f"dead{n}", lease_ms=1).claim(100, ALL)
    await asyncio.sleep(0.01)
    heirs = [make_worker(f"heir{n}") for n in range(5)]
    assert sum(await asyncio.gather(*(heir.reap() for heir in heirs))) == 300
    assert len({c.request_id for heir in heirs for c in await heir.claim(60, ALL)}) == 300


async def test_a_job_that_cannot_be_read_is_answered_not_returned(
    redis: Redis, requests: RequestQueue, worker: WorkerQueue, hub: StreamHub
) -> None:
    stream = await hub.open(QUEUE, "broken")
    await requests.enqueue(make_job("broken"))
    await requests.enqueue(make_job("sound"))
    await redis.set(f"{keys.base(QUEUE)}body:broken", b"\x01\xc1")
    assert [c.request_id for c in await worker.claim(9, ALL)] == ["sound"]
    events = [event async for frame in stream for event in frame]
    assert isinstance(failed := ending(events), Failed)
    assert failed.code is ErrorCode.INTERNAL


async def test_a_claim_whose_reply_was_lost_is_answered_again(
    valkey_url: str, requests: RequestQueue, worker: WorkerQueue
) -> None:
    for n in range(10):
        await requests.enqueue(make_job(f"r{n}"))
    async with TcpProxy(valkey_url) as network:
        client = connect(RedisSettings(url=network.url))
        worker = WorkerQueue(client, QUEUE, "w", 60_000)
        await worker.renew()
        network.replies = False
        with pytest.raises(UnavailableError):
            await worker.claim(4, ALL)
        assert (await requests.depth(QUEUE)).running == 4
        network.replies = True
        assert [c.request_id for c in await worker.claim(4, ALL)] == ["r0", "r1", "r2", "r3"]
        assert [c.request_id for c in await worker.claim(4, ALL)] == ["r4", "r5", "r6", "r7"]
        await client.aclose()


async def test_an_append_whose_reply_was_lost_is_said_once(
    valkey_url: str, requests: RequestQueue, hub: StreamHub
) -> None:
    stream = await hub.open(QUEUE, "r")
    await requests.enqueue(make_job("r"))
    async with TcpProxy(valkey_url) as network:
        client = connect(RedisSettings(url=network.url))
        worker = WorkerQueue(client, QUEUE, "w", 60_000)
        [claim] = await worker.claim(1, ALL)
        frames = [
            FrameOut("r", claim.epoch, 1, [token(0)]),
            FrameOut("r", claim.epoch, 2, [token(1), FINISHED], final=True),
        ]
        network.replies = False
        with pytest.raises(UnavailableError):
            await worker.append(frames)
        network.replies = True
        assert {answer.status for answer in await worker.append(frames)} == {AppendStatus.DUPLICATE}
        await client.aclose()
    assert positions([event async for frame in stream for event in frame]) == [0, 1]


async def test_nobody_is_declared_dead_by_a_worker_that_was_cut_off_itself(
    valkey_url: str, requests: RequestQueue, make_worker: MakeWorker
) -> None:
    """After an outage of Redis every lease has ended; the first one back must not take everything."""
    await requests.enqueue(make_job("r"))
    other = make_worker("other", lease_ms=LEASE_MS)
    [claim] = await other.claim(1, ALL)
    async with TcpProxy(valkey_url) as network:
        client = connect(RedisSettings(url=network.url))
        cut_off = WorkerQueue(client, QUEUE, "cut off", LEASE_MS * 4)
        await network.refuse()
        with pytest.raises(UnavailableError):
            await cut_off.renew()
        await network.listen()
        assert await cut_off.reap() == 0
        assert [a.status for a in await speak(other, claim, 0)] == [AppendStatus.OK]
        await asyncio.sleep(LEASE_MS * 4 / 1000 + 0.05)
        assert await cut_off.reap() == 1
        await client.aclose()
