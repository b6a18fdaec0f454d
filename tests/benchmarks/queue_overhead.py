"""What the queue costs: the same engine called in process, and over API node, Redis and SSE.

    python tests/benchmarks/queue_overhead.py [--step-ms 20] [--rounds 5] [--concurrency 1 8 32]

The engine is the simulated one, so that its share is the same on both ways. Prints the time to the
first token and the tokens per second of each way, and their differences; gates nothing.
"""

import argparse
import asyncio
import json
import secrets
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import uvloop
from fleet import fleet_on
from queue_client import QueueClient, generate_job, queue_client
from worker_process import card_of_fleet

from headrace_cli.embedded_redis import EmbeddedRedis
from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.event import Delta
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import SamplingSpec, StoppingSpec
from headrace_worker.engine.build import build_engine
from headrace_worker.engine.generate import GenerateEngine
from headrace_worker.schedule.request import Request
from headrace_worker.settings import WorkerSettings

FEW, MANY = 4, 256
PROMPT = list(range(300, 340))


def in_process(engine: GenerateEngine, concurrency: int, tokens: int) -> tuple[float, float]:
    """(median seconds to the first token, tokens per second) of one batch."""
    begin = time.perf_counter()
    for i in range(concurrency):
        job = GenerateJob(
            header=JobHeader(request_id=f"{begin}-{i}", queue="q"),
            prompt=pack_ids(PROMPT),
            sampling=SamplingSpec(seed=i),
            stopping=StoppingSpec(max_tokens=tokens, ignore_eos=True),
        )
        engine.add(Request.from_job(job, arrival=time.monotonic_ns()))
    firsts: list[float] = []
    while engine.has_work():
        for output in engine.step():
            if output.first:
                firsts.append(time.perf_counter() - begin)
    return statistics.median(firsts), concurrency * tokens / (time.perf_counter() - begin)


async def over_http(port: int, concurrency: int, tokens: int) -> tuple[float, float]:
    """As ``in_process``, over sockets: an SDK's own milliseconds are not the server's."""

    async def one(seed: int) -> float:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        options = {"max_tokens": tokens, "seed": seed, "stream": True, "ignore_eos": True}
        body = json.dumps({"model": "simulated", "prompt": PROMPT, **options}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        begin = time.perf_counter()
        writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
        await reader.readuntil(b"data: ")
        first = time.perf_counter() - begin
        rest = await reader.read()
        assert b"[DONE]" in rest, rest
        writer.close()
        return first

    await asyncio.sleep(0.02)
    begin = time.perf_counter()
    firsts = await asyncio.gather(*(one(seed) for seed in range(concurrency)))
    return statistics.median(firsts), concurrency * tokens / (time.perf_counter() - begin)


async def over_queue(client: QueueClient, queue: str) -> float:
    """Seconds to the first token without HTTP: subscribe, enqueue, claim, step, append, receive."""
    await asyncio.sleep(0.02)  # what came in while the engine had the event loop is not the queue's cost
    job = generate_job(queue, secrets.token_hex(8), max_tokens=FEW, ignore_eos=True)
    begin = time.perf_counter()
    stream = await client.hub.open(queue, job.header.request_id)
    await client.queue.enqueue(job)
    first = 0.0
    async for frame in stream:
        if not first and any(isinstance(event, Delta) for event in frame):
            first = time.perf_counter() - begin
    return first


async def compare(step_ms: float, rounds: int, widths: list[int]) -> None:
    engine = build_engine(WorkerSettings(model="simulated", engine="simulated", simulated_step_ms=step_ms)).engine
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedRedis(Path(folder)) as server,
        fleet_on(server.url) as fleet,
    ):
        fleet.worker(simulated_step_ms=step_ms, lease_ms=3000, log_level="warning")
        api = fleet.api(log_level="warning")
        await asyncio.to_thread(api.wait_until_ready)
        async with queue_client(server.url) as client:
            card = await card_of_fleet(client.presence, 1)
            # Taken in turns, so that other load on the machine meets all of them.
            firsts = [
                (
                    in_process(engine, 1, FEW)[0],
                    await over_queue(client, card.queue),
                    (await over_http(api.port, 1, FEW))[0],
                )
                for _ in range(rounds * 10)
            ][5:]
        near, queued, served = (statistics.median(column) * 1000 for column in zip(*firsts, strict=True))
        print(f"time to first token, engine step {step_ms} ms, median of {len(firsts)}, ms")
        print(
            f"  in process {near:.2f}   through the queue {queued:.2f} (+{queued - near:.2f})   over HTTP {served:.2f} (+{served - near:.2f})"
        )
        for width in widths:
            rates = [
                (in_process(engine, width, MANY)[1], (await over_http(api.port, width, MANY))[1]) for _ in range(rounds)
            ]
            near_rate, far_rate = (statistics.median(column) for column in zip(*rates, strict=True))
            print(
                f"tokens per second, concurrency {width}: in process {near_rate:.0f}   over HTTP {far_rate:.0f}   ratio {far_rate / near_rate:.3f}"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What the queue costs against the same engine in process.")
    parser.add_argument("--step-ms", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 8, 32])
    asked = parser.parse_args()
    uvloop.run(compare(asked.step_ms, asked.rounds, asked.concurrency))
