"""What metrics and traces cost: the same load on four fleets, in turns.

    python tests/benchmarks/instrumentation.py [--rounds 12] [--streams 32] [--tokens 200] [--step-ms 5]

One fleet is as it is shipped, with metrics; one sends traces to a collector as well, one those of every twentieth
request; from one (this file again) the instrumentation is cut out. With ``--step-ms 0`` the processor is the limit. All run at once, and each round asks one after the other, so that a change of the machine's
mood meets all of them. Prints tokens per second and CPU time; gates nothing.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import httpx
import psutil  # type: ignore[import-untyped]
from fleet import wait_until
from ports import free_port
from trace_collector import trace_collector

from headrace_cli.embedded_redis import EmbeddedRedis

BARE, METRICS, SAMPLED, TRACES = "bare", "metrics", "sampled", "traces"


def run_bare(package: str) -> None:
    """A server without what is measured here."""
    from headrace_shared.telemetry import queue_metrics, series, tallies

    def nothing(*_: object, **__: object) -> None: ...

    for name in ("called", "appended", "claimed", "reaped", "log_read", "frame_ignored"):
        setattr(queue_metrics.ProcessMetrics, name, nothing)
    series.Instruments.settle = nothing  # type: ignore[method-assign]
    tallies.CountTally.inc = nothing  # type: ignore[method-assign]
    tallies.SpreadTally.observe = nothing  # type: ignore[method-assign]
    if package == "headrace_api":
        from headrace_api import http_metrics, progress, timeline
        from headrace_api.__main__ import main

        http_metrics.HttpMetrics.answered = nothing  # type: ignore[method-assign]
        progress.Progress.saw = nothing  # type: ignore[method-assign]
        timeline.Timeline.prepared = nothing  # type: ignore[method-assign]
        timeline.Timeline.enqueued = nothing  # type: ignore[method-assign]
        timeline.Timeline.server_timing = nothing  # type: ignore[method-assign,assignment]
    else:
        from headrace_worker.__main__ import main
        from headrace_worker.service import attempts, watch

        watch.WorkerWatch.note = nothing  # type: ignore[method-assign]
        attempts.Attempt.token = nothing  # type: ignore[method-assign]
        attempts.Attempts.count_end = nothing  # type: ignore[method-assign]
        attempts.Attempts.count_tokens = nothing  # type: ignore[method-assign]
    sys.exit(main())


@dataclass
class Arm:
    """One fleet: an API node and a worker of a model that has the arm's name."""

    name: str
    redis_url: str
    step_ms: float
    extra: dict[str, str]
    tokens_per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    """Of both processes, per token."""

    def start(self, stack: ExitStack) -> None:
        self.port = free_port()
        quiet = {"HEADRACE_API_LOG_LEVEL": "warning", "HEADRACE_WORKER_LOG_LEVEL": "warning"}
        worker = {
            "HEADRACE_WORKER_MODEL": self.name,
            "HEADRACE_WORKER_SERVED_MODEL_NAME": self.name,
            "HEADRACE_WORKER_ENGINE": "simulated",
            "HEADRACE_WORKER_SIMULATED_STEP_MS": str(self.step_ms),
        }
        shared = {**os.environ, "HEADRACE_REDIS_URL": self.redis_url, **quiet, **self.extra}
        self.processes = [
            self._run("headrace_worker", shared | worker),
            self._run("headrace_api", shared | {"HEADRACE_API_PORT": str(self.port)}),
        ]
        for process in self.processes:
            stack.callback(process.wait)
            stack.callback(process.send_signal, signal.SIGTERM)

    def _run(self, package: str, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
        command = [__file__, "--bare", package] if self.name == BARE else ["-m", package]
        return subprocess.Popen([sys.executable, *command], env=environment)

    def serves(self) -> bool:
        try:
            ready = httpx.get(f"http://127.0.0.1:{self.port}/ready").json()
        except httpx.HTTPError:
            return False
        return any(model["id"] == self.name for model in ready["models"])

    def measure(self, streams: int, tokens: int) -> None:
        cpu_s, begun_s = self._cpu_s(), time.perf_counter()
        asyncio.run(self._load(streams, tokens))
        seconds = time.perf_counter() - begun_s
        self.tokens_per_s.append(streams * tokens / seconds)
        self.cpu_us.append((self._cpu_s() - cpu_s) / (streams * tokens) * 1e6)

    async def _load(self, streams: int, tokens: int) -> None:
        await asyncio.gather(*(self._stream(seed, tokens) for seed in range(streams)))

    async def _stream(self, seed: int, tokens: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**22)
        options = {"max_tokens": tokens, "seed": seed, "stream": True, "ignore_eos": True}
        body = json.dumps({"model": self.name, "prompt": [300, 301, 302], **options}).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = await reader.read(-1)
        writer.close()
        assert b"data: [DONE]" in answer

    def _cpu_s(self) -> float:
        return sum(sum(psutil.Process(process.pid).cpu_times()[:2]) for process in self.processes)


def main(rounds: int, streams: int, tokens: int, step_ms: float) -> None:
    with ExitStack() as stack:
        collector = stack.enter_context(trace_collector())
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        redis = stack.enter_context(EmbeddedRedis(Path(folder) / "valkey"))
        traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        sampled = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.05"}
        extras = {BARE: {}, METRICS: {}, SAMPLED: traced | sampled, TRACES: traced}
        arms = [Arm(name, redis.url, step_ms, extra) for name, extra in extras.items()]
        for arm in arms:
            arm.start(stack)
        for arm in arms:
            wait_until(arm.serves, f"{arm.name} serves", 120)
            arm.measure(streams, tokens)
            arm.tokens_per_s.clear()
            arm.cpu_us.clear()
        for number in range(rounds):
            for arm in arms[number % len(arms) :] + arms[: number % len(arms)]:
                arm.measure(streams, tokens)
    bare = arms[0]
    for arm in arms:
        speed = [a / b - 1 for a, b in zip(arm.tokens_per_s, bare.tokens_per_s, strict=True)]
        cpu = [a / b - 1 for a, b in zip(arm.cpu_us, bare.cpu_us, strict=True)]
        print(
            f"{arm.name:<8} {statistics.median(arm.tokens_per_s):7,.0f} tokens/s ({statistics.median(speed):+.2%} against bare), "
            f"{statistics.median(arm.cpu_us):6.1f} us CPU per token ({statistics.median(cpu):+.2%})"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure what metrics and traces cost.")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--step-ms", type=float, default=5.0)
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare:
        run_bare(given.bare)
    else:
        main(given.rounds, given.streams, given.tokens, given.step_ms)
