"""What metrics and traces cost: the same load with them and without, in turns.

    python tests/benchmarks/instrumentation.py [--rounds 12] [--streams 32] [--tokens 200] [--step-ms 5]

Three fleets: one as it is shipped, with metrics; one that sends traces to a collector as well, one those of every
twentieth request. In each, signals cut the instrumentation out and put it back, so that both are measured of the same
processes: two that run the same code may differ by several percent. Prints tokens per second and CPU time; gates nothing.
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
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import httpx
from fleet import wait_until
from ports import free_port
from trace_collector import trace_collector

from headrace_cli.embedded_redis import EmbeddedRedis

METRICS, SAMPLED, TRACES = "metrics", "sampled", "traces"
CUT, PUT_BACK = signal.SIGUSR1, signal.SIGUSR2
SETTLE_S = 0.5
"""Every process has met the signal by then."""


def run_switched(package: str) -> int:
    """A server whose instrumentation can be cut out."""
    from headrace_shared.telemetry import queue_metrics, series, tallies

    def nothing(*_: object, **__: object) -> None: ...

    calls = ("called", "appended", "claimed", "reaped", "log_read", "frame_ignored")
    cuts: list[tuple[Any, str, Any]] = [(queue_metrics.ProcessMetrics, name, nothing) for name in calls]
    cuts.append((series.Instruments, "settle", nothing))
    cuts += [(tallies.CountTally, "inc", nothing), (tallies.SpreadTally, "observe", nothing)]
    if package == "headrace_api":
        from headrace_api import http_metrics, middleware, progress, spans, timeline
        from headrace_api.__main__ import main

        cuts += [(timeline.Timeline, name, nothing) for name in ("prepared", "enqueued", "server_timing")]
        cuts += [(http_metrics.HttpMetrics, "answered", nothing), (progress.Progress, "saw", nothing)]
        cuts.append((middleware, "start_http_span", lambda *_: spans.HttpSpan()))
        cuts.append((spans.RequestSpans, "begin", nothing))
    else:
        from headrace_worker.__main__ import main
        from headrace_worker.service import attempt_span, attempts, watch

        cuts += [(attempts.Attempts, name, nothing) for name in ("count_end", "count_tokens")]
        cuts += [(watch.WorkerWatch, "note", nothing), (attempts.Attempt, "token", nothing)]
        untraced = attempt_span.AttemptSpans(None, "", "")
        cuts.append((attempt_span.AttemptSpans, "start", lambda _, claim: attempt_span.AttemptSpan(untraced, claim)))
    whole = [(owner, name, vars(owner)[name]) for owner, name, _ in cuts]

    def put(values: list[tuple[Any, str, Any]]) -> None:
        for owner, name, value in values:
            setattr(owner, name, value)

    signal.signal(CUT, lambda *_: put(cuts))
    signal.signal(PUT_BACK, lambda *_: put(whole))
    return main()


@dataclass
class Arm:
    """One fleet: an API node and a worker of a model that has the arm's name."""

    name: str
    redis_url: str
    step_ms: float
    extra: dict[str, str]
    tokens_per_s: dict[signal.Signals, list[float]] = field(default_factory=lambda: {CUT: [], PUT_BACK: []})
    cpu_us: dict[signal.Signals, list[float]] = field(default_factory=lambda: {CUT: [], PUT_BACK: []})
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
        return subprocess.Popen([sys.executable, __file__, "--run", package], env=environment)

    def serves(self) -> bool:
        try:
            ready = httpx.get(f"http://127.0.0.1:{self.port}/ready").json()
        except httpx.HTTPError:
            return False
        return any(model["id"] == self.name for model in ready["models"])

    def measure(self, state: signal.Signals, streams: int, tokens: int) -> None:
        for process in self.processes:
            process.send_signal(state)
        time.sleep(SETTLE_S)
        cpu_s, begun_s = self._cpu_s(), time.perf_counter()
        asyncio.run(self._load(streams, tokens))
        seconds = time.perf_counter() - begun_s
        self.tokens_per_s[state].append(streams * tokens / seconds)
        self.cpu_us[state].append((self._cpu_s() - cpu_s) / (streams * tokens) * 1e6)

    def tell(self) -> None:
        cells = []
        for values in (self.tokens_per_s, self.cpu_us):
            without, with_it = values[CUT], values[PUT_BACK]
            more = [a / b - 1 for a, b in zip(with_it, without, strict=True)]
            low, middle, high = statistics.quantiles(more, n=4)
            medians = f"{statistics.median(with_it):7,.1f} for {statistics.median(without):7,.1f}"
            cells.append(f"{medians} ({middle:+.2%}, quartiles {low:+.2%} {high:+.2%})")
        print(f"{self.name:<8} {cells[0]} tokens/s, {cells[1]} us CPU per token")

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
        """Of all threads, to the nanosecond: the usual counters of a process have steps of 10 ms."""
        tasks = [task for process in self.processes for task in Path(f"/proc/{process.pid}/task").iterdir()]
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def main(rounds: int, streams: int, tokens: int, step_ms: float) -> None:
    with ExitStack() as stack:
        collector = stack.enter_context(trace_collector())
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        redis = stack.enter_context(EmbeddedRedis(Path(folder) / "valkey"))
        traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        sampled = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.05"}
        extras = {METRICS: {}, SAMPLED: traced | sampled, TRACES: traced}
        arms = [Arm(name, redis.url, step_ms, extra) for name, extra in extras.items()]
        for arm in arms:
            arm.start(stack)
        for arm in arms:
            wait_until(arm.serves, f"{arm.name} serves", 120)
            for state in (CUT, PUT_BACK):
                arm.measure(state, streams, tokens)
                arm.tokens_per_s[state].clear()
                arm.cpu_us[state].clear()
        for number in range(rounds):
            for arm in arms:
                for state in (CUT, PUT_BACK) if number % 2 else (PUT_BACK, CUT):
                    arm.measure(state, streams, tokens)
    for arm in arms:
        arm.tell()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure what metrics and traces cost.")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--step-ms", type=float, default=5.0)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        sys.exit(run_switched(given.run))
    else:
        main(given.rounds, given.streams, given.tokens, given.step_ms)
