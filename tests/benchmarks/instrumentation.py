"""What metrics and traces cost: processor time for the same work with them and without, in turns.

    python tests/benchmarks/instrumentation.py [--rounds 20] [--requests 320] [--streams 32] [--tokens 32] [--step-ms 0]

Three fleets: one as it is shipped, with metrics; one that sends traces to a collector as well, one those of every
twentieth request. In each, signals cut the instrumentation out and put it back, so that both are measured of the same
processes: two that run the same code may differ by several percent. With steps of 0 ms nothing is computed, and what
instrumentation takes is as large a share as it can be; 20 ms is the pace of a real engine.

Prints microseconds of processor time per request, of both processes: the least of all rounds, the median of what a
round's halves differ by, and where that median lies with 95 % confidence. Gates nothing.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import httpx
from fleet import wait_until
from ports import free_port
from trace_collector import trace_collector

from headrace_cli.embedded_redis import EmbeddedRedis

FLEETS = METRICS, SAMPLED, TRACES = "metrics", "sampled", "traces"
CUT, PUT_BACK = signal.SIGUSR1, signal.SIGUSR2
SETTLE_S = 0.2
"""Every process has met the signal by then."""
EXPORT_S = 0.5
"""All spans have left within two of these."""
RESAMPLES = 4000


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


@dataclass(frozen=True)
class Load:
    """So many requests for so many tokens each, of which ``streams`` run at a time."""

    requests: int
    streams: int
    tokens: int


@dataclass
class Arm:
    """One fleet: an API node and a worker of a model that has the arm's name."""

    name: str
    redis_url: str
    step_ms: float
    extra: dict[str, str]
    cpu_us: dict[signal.Signals, list[tuple[float, float]]] = field(default_factory=lambda: {CUT: [], PUT_BACK: []})
    """Of the worker and of the API node, per request."""

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

    def measure(self, state: signal.Signals, load: Load) -> None:
        for process in self.processes:
            process.send_signal(state)
        time.sleep(SETTLE_S)
        before_s = self._cpu_s()
        asyncio.run(self._load(load))
        time.sleep(2 * EXPORT_S)  # what is sent afterwards belongs to it
        worker_s, api_s = (after - before for after, before in zip(self._cpu_s(), before_s, strict=True))
        self.cpu_us[state].append((worker_s / load.requests * 1e6, api_s / load.requests * 1e6))

    def tell(self) -> None:
        for name, of in (("worker", itemgetter(0)), ("API node", itemgetter(1)), ("both", sum)):
            without, with_it = ([of(both) for both in self.cpu_us[state]] for state in (CUT, PUT_BACK))
            more_us = [a - b for a, b in zip(with_it, without, strict=True)]
            low, high = confidence(more_us)
            least = f"least {min(with_it):8,.1f} for {min(without):8,.1f} ({min(with_it) / min(without) - 1:+6.2%})"
            middle = statistics.median(more_us)
            share = middle / statistics.median(without)
            print(
                f"{self.name:<8} {name:<9} {least}, median {middle:+7.1f} us ({share:+.2%}), 95 %: {low:+.1f} to {high:+.1f}"
            )

    async def _load(self, load: Load) -> None:
        seeds = iter(range(load.requests))

        async def user() -> None:
            for seed in seeds:
                await self._stream(seed, load.tokens)

        await asyncio.gather(*(user() for _ in range(load.streams)))

    async def _stream(self, seed: int, tokens: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**22)
        options = {"max_tokens": tokens, "seed": seed, "stream": True, "ignore_eos": True}
        body = json.dumps({"model": self.name, "prompt": [300, 301, 302], **options}).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = await reader.read(-1)
        writer.close()
        assert b"data: [DONE]" in answer

    def _cpu_s(self) -> list[float]:
        """Of all threads that there are or were, to the nanosecond: the counters in /proc have steps of 10 ms."""
        return [time.clock_gettime(~process.pid << 3 | 2) for process in self.processes]


def confidence(values: list[float]) -> tuple[float, float]:
    """Where their median lies with 95 % confidence, by drawing from them again and again."""
    dice = random.Random(0)
    medians = sorted(statistics.median(dice.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return medians[RESAMPLES // 40], medians[-RESAMPLES // 40]


def main(names: Sequence[str], rounds: int, step_ms: float, load: Load) -> None:
    dice = random.Random(0)
    with ExitStack() as stack:
        collector = stack.enter_context(trace_collector())
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        redis = stack.enter_context(EmbeddedRedis(Path(folder) / "valkey"))
        traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": str(round(EXPORT_S * 1000))}
        sampled = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.05"}
        extras = {METRICS: {}, SAMPLED: traced | sampled, TRACES: traced}
        arms = [Arm(name, redis.url, step_ms, extra) for name, extra in extras.items() if name in names]
        for arm in arms:
            arm.start(stack)
        for arm in arms:
            wait_until(arm.serves, f"{arm.name} serves", 120)
            for state in (CUT, PUT_BACK):
                arm.measure(state, load)
                arm.cpu_us[state].clear()
        for _ in range(rounds):
            for arm in dice.sample(arms, len(arms)):
                for state in dice.sample((CUT, PUT_BACK), 2):
                    arm.measure(state, load)
                collector.spans.clear()
    for arm in arms:
        arm.tell()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure what metrics and traces cost.")
    parser.add_argument("--fleets", nargs="+", default=FLEETS, choices=FLEETS)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=320)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--step-ms", type=float, default=0.0)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        sys.exit(run_switched(given.run))
    else:
        main(given.fleets, given.rounds, given.step_ms, Load(given.requests, given.streams, given.tokens))
