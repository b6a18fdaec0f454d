"""A short random life of a queue: workers crash, freeze and come back, replies and messages are lost, readers move."""

import asyncio
import contextlib
import hashlib
import random
from collections import Counter

import pytest
from queue_traffic import FINISHED, QUEUE, MakeWorker, make_job, positions, token
from redis.asyncio import Redis

from headrace_shared.errors import ErrorCode
from headrace_shared.protocol.ask import Ask
from headrace_shared.protocol.event import Delta, Event, Failed, Finished
from headrace_shared.queue import keys
from headrace_shared.queue.claims import AppendStatus, Claim, FrameOut, WorkerQueue
from headrace_shared.queue.hub import StreamHub
from headrace_shared.queue.requests import QueueLimits, RequestQueue
from headrace_shared.queue.status import QueueDepth

pytestmark = pytest.mark.slow

LEASE_MS = 250
REQUESTS = 120
TENANTS = 5


def length_of(request_id: str) -> int:
    return 10 + hashlib.sha256(request_id.encode()).digest()[0] % 60


class Simulation:
    """Everything random comes from one seeded source; what happened is counted in ``seen``."""

    def __init__(self, seed: int, requests: RequestQueue, hub: StreamHub, make_worker: MakeWorker) -> None:
        self.rng = random.Random(seed)
        self.requests = requests
        self.hub = hub
        self.make_worker = make_worker
        self.seen: Counter[str] = Counter()
        self.over = asyncio.Event()

    async def host(self, number: int) -> None:
        """One machine: whatever happens to its worker, a new one follows."""
        life = 0
        while not self.over.is_set():
            life += 1
            await self.worker_life(self.make_worker(f"w{number}.{life}", lease_ms=LEASE_MS))

    async def worker_life(self, worker: WorkerQueue) -> None:
        running: dict[str, tuple[Claim, int]] = {}  # the claim, and how many tokens were said
        until = self.rng.uniform(0.1, 0.9) + asyncio.get_running_loop().time()
        freezes = self.rng.random() < 0.4
        while not self.over.is_set():
            if asyncio.get_running_loop().time() > until:
                if not freezes:
                    self.seen["crashes"] += 1
                    return
                self.seen["freezes"] += 1
                freezes, until = False, until + 3 * LEASE_MS / 1000
                await asyncio.sleep(2 * LEASE_MS / 1000)
            for claim in await worker.claim(8 - len(running), 10**9):
                said = positions(claim.log)
                assert said == list(range(len(said)))
                self.seen["continued"] += claim.attempt > 1
                running[claim.request_id] = claim, len(said)
            await self.step(worker, running)
            await asyncio.sleep(self.rng.uniform(0.0005, 0.003))

    async def step(self, worker: WorkerQueue, running: dict[str, tuple[Claim, int]]) -> None:
        frames = [self.next_frame(claim, said) for claim, said in running.values()]
        answers = await worker.append(frames)
        if self.rng.random() < 0.1:  # as after a lost reply
            self.seen["repeated"] += 1
            answers = await worker.append(frames)
        for frame, answer in zip(frames, answers, strict=True):
            claim, said = running[frame.request_id]
            match answer.status:
                case AppendStatus.OK | AppendStatus.DUPLICATE:
                    running[frame.request_id] = claim, said + 1
                    if frame.final:
                        del running[frame.request_id]
                case AppendStatus.CANCELLED:
                    last = FrameOut(frame.request_id, frame.epoch, frame.seq, [Failed(ErrorCode.CANCELLED, "x")], True)
                    await worker.append([last])
                    del running[frame.request_id]
                case AppendStatus.FENCED:
                    self.seen["fenced"] += 1
                    del running[frame.request_id]
                case unexpected:
                    pytest.fail(f"{unexpected} for {frame}")

    def next_frame(self, claim: Claim, said: int) -> FrameOut:
        seq = claim.seq + 1 + said - len(positions(claim.log))
        last = said + 1 == length_of(claim.request_id)
        events: list[Event] = [token(said), FINISHED] if last else [token(said)]
        return FrameOut(claim.request_id, claim.epoch, seq, events, last)

    async def reaper(self) -> None:
        worker = self.make_worker("reaper")
        while not self.over.is_set():
            self.seen["put back"] += await worker.reap()
            await asyncio.sleep(0.05)

    async def client(self, number: int) -> None:
        await asyncio.sleep(self.rng.uniform(0, 1.0))
        request_id = f"r{number}"
        cancel_at = self.rng.randint(1, 30) if self.rng.random() < 0.1 else None
        stream = await self.hub.open(QUEUE, request_id)
        job = make_job(request_id, priority=self.rng.choice([-3, 0, 0, 2]), tenant=f"t{number % TENANTS}")
        ask = Ask("chat", f"a{number // 3}", b"{}", 1)
        for _ in range(self.rng.choice([1, 1, 2])):
            await self.requests.enqueue(job, ask=ask)
        events: list[Event] = []
        while not events or not isinstance(events[-1], Finished | Failed):
            events += await anext(stream)
            if self.rng.random() < 0.01:  # the API node is gone, another one goes on
                self.seen["failovers"] += 1
                seq = stream.last_seq
                stream.close()
                stream = await self.hub.open(QUEUE, request_id)
                await stream.replay_from(seq)
            if cancel_at is not None and len(events) >= cancel_at:
                cancel_at = None
                await self.requests.cancel(QUEUE, request_id, "x")
        self.check(request_id, events)

    def check(self, request_id: str, events: list[Event]) -> None:
        said = positions(events)
        assert all(isinstance(event, Delta) for event in events[:-1])
        assert said == list(range(len(said)))
        if isinstance(events[-1], Finished):
            self.seen["finished"] += 1
            assert len(said) == length_of(request_id)
        else:
            self.seen["cancelled"] += 1
            # The words are the canceller's, or those of whoever cleared up after a dead worker.
            assert isinstance(events[-1], Failed)
            assert events[-1].code is ErrorCode.CANCELLED


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_reader_gets_every_token_once_whatever_dies(
    seed: int, redis: Redis, hub: StreamHub, make_worker: MakeWorker
) -> None:
    requests = RequestQueue(redis, QueueLimits(max_attempts=1000))
    simulation = Simulation(seed, requests, hub, make_worker)

    async def kill_subscriptions() -> None:
        while True:
            await asyncio.sleep(simulation.rng.uniform(0.1, 0.4))
            await redis.client_kill_filter(_type="pubsub")

    killer = asyncio.create_task(kill_subscriptions())
    servants = [asyncio.create_task(simulation.host(n)) for n in range(4)]
    servants.append(asyncio.create_task(simulation.reaper()))
    async with asyncio.timeout(60):
        await asyncio.gather(*(simulation.client(n) for n in range(REQUESTS)))
    simulation.over.set()
    killer.cancel()
    await asyncio.gather(*servants)
    with contextlib.suppress(asyncio.CancelledError):
        await killer

    print(dict(simulation.seen))
    # How many depends on the machine's pace; without any the simulation would have shown nothing.
    assert simulation.seen["crashes"] > 0
    assert simulation.seen["continued"] > 0
    assert await requests.depth(QUEUE) == QueueDepth(0, 0, 0)
    await asyncio.sleep(LEASE_MS / 1000)
    await make_worker("last", lease_ms=1).reap()
    left = [key for key in await redis.keys("*") if await redis.pttl(key) == -1]
    assert left == [keys.counters(QUEUE).encode()]
