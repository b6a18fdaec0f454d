"""What the queue costs: the same engine called in process, and over API node, Redis and SSE.

    python tests/benchmarks/queue_overhead.py [--step-ms 20] [--rounds 5] [--concurrency 1 8 32]

The engine is the simulated one, so that its share is the same on both ways. Prints the time to the
first token and the tokens per second of each way, and their differences; gates nothing.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from fleet import fleet_on

from headrace_cli.embedded_redis import EmbeddedRedis
from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import SamplingSpec, StoppingSpec
from headrace_worker.engine.build import build_engine
from headrace_worker.engine.generate import GenerateEngine
from headrace_worker.schedule.request import Request
from headrace_worker.settings import WorkerSettings

TOKENS = 256
PROMPT = list(range(300, 340))


def in_process(engine: GenerateEngine, concurrency: int) -> tuple[float, float]:
    """(median seconds to the first token, tokens per second) of one batch."""
    begin = time.perf_counter()
    for i in range(concurrency):
        job = GenerateJob(
            header=JobHeader(request_id=f"{begin}-{i}", queue="q"),
            prompt=pack_ids(PROMPT),
            sampling=SamplingSpec(seed=i),
            stopping=StoppingSpec(max_tokens=TOKENS, ignore_eos=True),
        )
        engine.add(Request.from_job(job, arrival=time.monotonic_ns()))
    firsts: list[float] = []
    while engine.has_work():
        for output in engine.step():
            if output.first:
                firsts.append(time.perf_counter() - begin)
    return statistics.median(firsts), concurrency * TOKENS / (time.perf_counter() - begin)


async def over_http(port: int, concurrency: int) -> tuple[float, float]:
    """As ``in_process``, over sockets: an SDK's own milliseconds are not the server's."""

    async def one(seed: int) -> float:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        options = {"max_tokens": TOKENS, "seed": seed, "stream": True, "ignore_eos": True}
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

    begin = time.perf_counter()
    firsts = await asyncio.gather(*(one(seed) for seed in range(concurrency)))
    return statistics.median(firsts), concurrency * TOKENS / (time.perf_counter() - begin)


async def compare(step_ms: float, rounds: int, concurrency: int) -> None:
    engine = build_engine(WorkerSettings(model="simulated", engine="simulated", simulated_step_ms=step_ms)).engine
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedRedis(Path(folder)) as server,
        fleet_on(server.url) as fleet,
    ):
        fleet.worker(simulated_step_ms=step_ms, lease_ms=3000, log_level="warning")
        api = fleet.api(log_level="warning")
        await asyncio.to_thread(api.wait_until_ready)
        near: list[tuple[float, float]] = []
        far: list[tuple[float, float]] = []
        await over_http(api.port, concurrency)
        for _ in range(rounds):  # taken in turns, so that other load on the machine meets both
            near.append(in_process(engine, concurrency))
            far.append(await over_http(api.port, concurrency))
    near_ttft, far_ttft = (statistics.median(row[0] for row in rows) * 1000 for rows in (near, far))
    near_rate, far_rate = (statistics.median(row[1] for row in rows) for rows in (near, far))
    print(f"concurrency {concurrency}, engine step {step_ms} ms, {rounds} rounds of {TOKENS} tokens each")
    print(
        f"  time to first token  in process {near_ttft:6.2f} ms   served {far_ttft:6.2f} ms   added {far_ttft - near_ttft:.2f} ms"
    )
    print(
        f"  tokens per second    in process {near_rate:6.0f}      served {far_rate:6.0f}      ratio {far_rate / near_rate:.3f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What the queue costs against the same engine in process.")
    parser.add_argument("--step-ms", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    asked = parser.parse_args()
    for width in asked.concurrency:
        asyncio.run(compare(asked.step_ms, asked.rounds, width))
