"""What the queue costs, on one private server: python tests/benchmarks/queue_ops.py [--requests N]"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from redis.asyncio import Redis

from headrace_cli.embedded_redis import EmbeddedRedis
from headrace_shared.protocol.ask import Ask
from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.event import Delta, Event, Finished
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.queue.claims import Claim, FrameOut, WorkerQueue
from headrace_shared.queue.client import connect
from headrace_shared.queue.hub import StreamHub
from headrace_shared.queue.requests import QueueLimits, RequestQueue
from headrace_shared.settings import RedisSettings

QUEUE = "bench.0"
PROMPT = pack_ids(range(300))
BODY = b'{"messages": [{"role": "user", "content": "' + b"word " * 300 + b'"}]}'


def job(number: int, tenants: int = 1) -> GenerateJob:
    header = JobHeader(f"r{number}", QUEUE, priority=number % 5 - 2, tenant=f"t{number % tenants}", cost_tokens=400)
    return GenerateJob(header, PROMPT)


def ask(number: int) -> Ask:
    """What an API node keeps beside the job."""
    request_id = f"r{number}"
    return Ask("chat", request_id, BODY, 1_800_000_000, job_ids=(request_id,))


async def timed(label: str, count: int, unit: str, work: Callable[[], Awaitable[object]]) -> None:
    started = time.perf_counter()
    await work()
    seconds = time.perf_counter() - started
    print(f"{label:<58}{count / seconds:>12,.0f} {unit}/s")


async def latencies(label: str, rounds: int, call: Callable[[int], Awaitable[object]]) -> None:
    taken = []
    for number in range(rounds):
        started = time.perf_counter()
        await call(number)
        taken.append((time.perf_counter() - started) * 1000)
    taken.sort()
    print(f"{label:<58}{statistics.median(taken):>9.2f} ms p50 {taken[int(rounds * 0.99)]:>7.2f} ms p99")


async def memory_of(redis: Redis) -> int:
    """Bytes of all keys; what the whole server uses also depends on its buffers of the moment."""
    names = [name async for name in redis.scan_iter(count=10_000)]
    sizes = 0
    for start in range(0, len(names), 1000):
        pipeline = redis.pipeline(transaction=False)
        for name in names[start : start + 1000]:
            pipeline.memory_usage(name, samples=0)
        sizes += sum(await pipeline.execute())
    return sizes


async def enqueue_and_claim(redis: Redis, count: int, tenants: int) -> None:
    await redis.flushall()
    requests = RequestQueue(redis, QueueLimits(max_requests=10**9, max_tokens=10**12))

    async def put(start: int) -> None:
        for number in range(start, count, 64):
            await requests.enqueue(job(number, tenants), ask=ask(number))

    await timed(
        f"enqueue, 64 callers, {tenants} tenants", count, "requests", lambda: asyncio.gather(*map(put, range(64)))
    )
    memory = await memory_of(redis) / count
    print(f"{'memory per queued request (300 tokens, 1.5 KB of JSON)':<58}{memory:>12,.0f} bytes")
    worker = WorkerQueue(redis, QUEUE, "w", 60_000)

    async def claim(most: int, each: int) -> None:
        for _ in range(most // each):
            await worker.claim(each, 10**12)

    most = min(count // 4, 19_200)
    for waiting, each in ((count, 8), (count - most, 32)):
        await timed(f"claim, {each} at a time, backlog {waiting:,}", most, "requests", partial(claim, most, each))


async def single_calls(redis: Redis) -> None:
    await redis.flushall()
    requests = RequestQueue(redis, QueueLimits())
    worker = WorkerQueue(redis, QUEUE, "w", 60_000)
    await latencies("enqueue", 1000, lambda n: requests.enqueue(job(n), ask=ask(n)))
    await latencies("claim 1 of 1000", 500, lambda _: worker.claim(1, 10**9))


async def claims_of(redis: Redis, batch: int) -> tuple[WorkerQueue, list[Claim]]:
    await redis.flushall()
    requests = RequestQueue(redis, QueueLimits())
    for number in range(batch):
        await requests.enqueue(job(number))
    worker = WorkerQueue(redis, QUEUE, "w", 60_000)
    return worker, await worker.claim(batch, 10**9)


def frames_of(claims: list[Claim], seq: int, final: bool = False) -> list[FrameOut]:
    events: list[Event] = [Delta(0, [1000 + seq], " token")]
    if final:
        events.append(Finished(300, seq))
    return [FrameOut(c.request_id, c.epoch, seq, events, final) for c in claims]


async def appends(redis: Redis, batch: int, steps: int) -> None:
    worker, claims = await claims_of(redis, batch)

    async def say() -> None:
        for seq in range(1, steps + 1):
            await worker.append(frames_of(claims, seq))

    await timed(f"append, {batch} sequences per step, nobody listens", batch * steps, "tokens", say)


async def streams(redis: Redis, batch: int, steps: int) -> None:
    """Worker and reader share this process and its event loop."""
    hub = StreamHub(redis)
    await hub.start()
    await redis.flushall()
    readers = [await hub.open(QUEUE, f"r{number}") for number in range(batch)]
    requests = RequestQueue(redis, QueueLimits())
    for number in range(batch):
        await requests.enqueue(job(number))
    worker = WorkerQueue(redis, QUEUE, "w", 60_000)
    claims = await worker.claim(batch, 10**9)
    said_at: list[float] = []
    hops: list[float] = []

    async def say() -> None:
        for seq in range(1, steps + 1):
            said_at.append(time.perf_counter())
            await worker.append(frames_of(claims, seq, seq == steps))

    async def hear(number: int) -> None:
        seq = 0
        while frames := await readers[number].next_frames():
            seq += len(frames)
            hops.append((time.perf_counter() - said_at[seq - 1]) * 1000)

    await timed(
        f"append -> channel -> hub -> reader, {batch} streams",
        batch * steps,
        "tokens",
        lambda: asyncio.gather(say(), *(hear(number) for number in range(batch))),
    )
    hops.sort()
    print(
        f"{'  of that, one hop':<58}{statistics.median(hops):>9.2f} ms p50 {hops[int(len(hops) * 0.99)]:>7.2f} ms p99"
    )
    await hub.close()


async def log_memory(redis: Redis) -> None:
    worker, claims = await claims_of(redis, 50)
    before = await memory_of(redis)
    for seq in range(1, 513):
        await worker.append(frames_of(claims, seq))
    memory = (await memory_of(redis) - before) / (50 * 512)
    print(f"{'memory per logged one-token frame':<58}{memory:>12,.0f} bytes")


async def run(url: str, count: int) -> None:
    settings = RedisSettings(url=url)
    redis = connect(settings)
    await single_calls(redis)
    await enqueue_and_claim(redis, count, 1)
    await enqueue_and_claim(redis, count, 1000)
    for batch, steps in ((1, 1000), (8, 500), (32, 300), (128, 150)):
        await appends(redis, batch, steps)
    for batch, steps in ((1, 500), (32, 200), (200, 100)):
        await streams(redis, batch, steps)
    await log_memory(redis)
    await redis.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder)) as server:
        asyncio.run(run(server.url, arguments.requests))


if __name__ == "__main__":
    main()
