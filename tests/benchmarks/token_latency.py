"""What the way of a token costs: from the end of its engine step to the bytes at the client.

    python tests/benchmarks/token_latency.py [--step-ms 50] [--tokens 200] [--concurrency 1 8 32 64]

A real worker with the simulated engine (this file again, which notes when each step ends), Valkey, an API node, and
clients on sockets of their own, all on one machine, whose monotonic clock all processes share. Prints milliseconds;
gates nothing.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from fleet import fleet_on
from timed_stream import TimedStream

from headrace_cli.embedded_redis import EmbeddedRedis
from headrace_worker.__main__ import main as run_worker
from headrace_worker.engine.generate import GenerateEngine
from headrace_worker.schedule.plan import SequenceOutput

Times = dict[str, list[float]]
"""Per request, when each of its tokens was there: seconds of the monotonic clock."""


def work(notes: Path) -> None:
    """A worker that keeps in mind when the engine has made which token, and writes it down at its end."""
    step = GenerateEngine.step
    kept: list[tuple[float, list[SequenceOutput]]] = []

    def noted(engine: GenerateEngine) -> list[SequenceOutput]:
        outputs = step(engine)
        kept.append((time.monotonic(), outputs))
        return outputs

    GenerateEngine.step = noted  # type: ignore[method-assign]
    run_worker()
    with notes.open("w") as file:
        for now_s, outputs in kept:
            file.writelines(f"{o.request_id.split('/')[0]} {len(o.token_ids)} {now_s}\n" for o in outputs)


def made(notes: Path) -> Times:
    times: Times = defaultdict(list)
    for line in notes.read_text().splitlines():
        request_id, tokens, now_s = line.split()
        times[request_id] += [float(now_s)] * int(tokens)
    return times


def measure(step_ms: float, tokens: int, concurrency: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder) / "valkey") as server:
        notes = Path(folder) / "made"
        asked = {"MODEL": "simulated", "ENGINE": "simulated", "SIMULATED_STEP_MS": step_ms}
        environment = os.environ | {f"HEADRACE_WORKER_{name}": str(value) for name, value in asked.items()}
        environment["HEADRACE_REDIS_URL"] = server.url
        worker = subprocess.Popen([sys.executable, __file__, "--notes", str(notes)], env=environment)
        try:
            with fleet_on(server.url) as fleet:
                api = fleet.api()
                api.wait_until_ready()
                came = [uvloop.run(once(api.port, streams, tokens)) for streams in concurrency]
        finally:
            worker.terminate()
            worker.wait()
        for streams, times in zip(concurrency, came, strict=True):
            show(step_ms, streams, made(notes), times)


async def once(port: int, streams: int, tokens: int) -> Times:
    asked = [await TimedStream.open(port, seed, tokens) for seed in range(streams)]
    answers = [await stream.answer() for stream in asked]
    return {answer.request_id: answer.came_s for answer in answers}


def show(step_ms: float, streams: int, made_s: Times, came_s: Times) -> None:
    delays = sorted(
        (came - made) * 1000
        for request_id, times in came_s.items()
        for made, came in zip(made_s[request_id], times, strict=True)
    )
    p95, p99 = (delays[int(len(delays) * share)] for share in (0.95, 0.99))
    moments = [came for times in came_s.values() for came in times]
    rate = len(moments) / (max(moments) - min(moments))
    print(
        f"{streams:4} streams, a step each {step_ms:g} ms: {len(delays)} tokens, {rate:.0f} a second, added per token: "
        f"median {statistics.median(delays):.2f} ms, p95 {p95:.2f} ms, p99 {p99:.2f} ms, most {delays[-1]:.2f} ms"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure what the way from the engine to the client costs a token.")
    parser.add_argument("--step-ms", type=float, default=50.0)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--notes", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.notes:
        work(given.notes)
    else:
        measure(given.step_ms, given.tokens, given.concurrency)
