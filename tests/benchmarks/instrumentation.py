"""What metrics and traces cost: the share of a serving process' processor time that is spent in them.

    python tests/benchmarks/instrumentation.py [--rounds 20] [--streams 32] [--tokens 32] [--step-ms 0]

Three fleets: one as it is shipped, with metrics; one that sends traces to a collector as well, one those of every
twentieth request. With steps of 0 ms nothing is computed, and what instrumentation takes is as large a share as it can
be; 20 ms is the pace of a real engine.

The processor time of the same work differs by more from one second to the next than instrumentation takes, so that a
comparison of with and without says nothing. Instead every call into it is counted and timed where it happens, less what
the timing itself takes, and the thread that sends spans is asked for its processor time. Prints microseconds per request
the share of all the rest, as the median over the rounds and where that lies with 95 % confidence, and the
share of each second. Gates nothing.
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
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import httpx
from fleet import wait_until
from ports import free_port
from trace_collector import trace_collector

from headrace_cli.embedded_redis import EmbeddedRedis

FLEETS = METRICS, SAMPLED, TRACES = "metrics", "sampled", "traces"
ROUND_S = 3.0
KEPT = 0.98
"""Of the calls of a kind, the fastest: the others were interrupted."""
RESAMPLES = 4000
REPORT = "HEADRACE_BENCHMARK_REPORT"


class Meter:
    """Counts and times what it wraps; calls from within each other once."""

    def __init__(self) -> None:
        self._spent: dict[str, list[int]] = {}
        self._inside = False
        wrapped = self._wrapped("empty", lambda: None)
        for _ in range(20_000):
            wrapped()
        self._own_ns = _typical(self._spent.pop("empty"))

    def wrap(self, owner: Any, *names: str) -> None:
        for name in names:
            setattr(owner, name, self._wrapped(f"{owner.__name__}.{name}", vars(owner)[name]))

    def taken_ns(self) -> tuple[float, float]:
        """What was spent since the last time, and what the meter itself took."""
        spent, calls = 0.0, 0
        for durations in self._spent.values():
            if durations:
                spent += len(durations) * max(0.0, _typical(durations) - self._own_ns)
                calls += len(durations)
                durations.clear()
        return spent, calls * self._own_ns * 2

    def _wrapped(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        durations = self._spent[name] = []

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return original(*args, **kwargs)
            self._inside = True
            begun_ns = time.thread_time_ns()
            try:
                return original(*args, **kwargs)
            finally:
                durations.append(time.thread_time_ns() - begun_ns)
                self._inside = False

        return timed


def _typical(durations: list[int]) -> float:
    return statistics.fmean(sorted(durations)[: max(1, int(len(durations) * KEPT))])


def run_metered(package: str) -> int:
    """A server that says what its instrumentation takes, at SIGUSR1."""
    from headrace_shared.telemetry import queue_metrics, series, tallies

    meter = Meter()
    calls = ("called", "appended", "claimed", "reaped", "log_read", "frame_ignored")
    meter.wrap(queue_metrics.ProcessMetrics, *calls)
    meter.wrap(series.Instruments, "settle")
    meter.wrap(tallies.Tally, "labels")
    meter.wrap(tallies.CountTally, "inc")
    meter.wrap(tallies.SpreadTally, "observe")
    if package == "headrace_api":
        from headrace_api import http_metrics, middleware, progress, spans, timeline
        from headrace_api.__main__ import main

        meter.wrap(http_metrics.HttpMetrics, "answered")
        meter.wrap(progress.Progress, "__init__", "saw", "close")
        meter.wrap(timeline.Timeline, "__init__", "prepared", "enqueued", "server_timing", "end")
        meter.wrap(middleware, "start_http_span")
        meter.wrap(spans.HttpSpan, "end")
    else:
        from headrace_worker.__main__ import main
        from headrace_worker.service import attempts, watch

        meter.wrap(attempts.Attempts, "start")
        meter.wrap(attempts.Attempt, "token", "end")
        meter.wrap(watch.WorkerWatch, "note", "announced")
    sent_ns = 0

    def report(*_: object) -> None:
        nonlocal sent_ns
        before_ns, sent_ns = sent_ns, _exporting_ns()
        spent, own = meter.taken_ns()
        Path(os.environ[REPORT]).write_text(json.dumps([spent, sent_ns - before_ns, own]))

    signal.signal(signal.SIGUSR1, report)
    return main()


def _exporting_ns() -> int:
    """Processor time of the threads that send spans, so far."""
    ids = [thread.native_id for thread in threading.enumerate() if thread.name.startswith("Otel")]
    return sum(int(Path(f"/proc/self/task/{each}/schedstat").read_text().split()[0]) for each in ids)


@dataclass(frozen=True)
class Load:
    """``streams`` users, each of whom asks again and again for so many tokens."""

    streams: int
    tokens: int


@dataclass(frozen=True)
class Round:
    """Of one process, microseconds per request."""

    rest_us: float
    calls_us: float
    sending_us: float
    of_time: float
    """The part of each second that instrumentation takes, percent: no engine can lose more of its pace to it."""

    @property
    def share(self) -> float:
        return 100 * (self.calls_us + self.sending_us) / self.rest_us


@dataclass
class Arm:
    """One fleet: an API node and a worker of a model that has the arm's name."""

    name: str
    redis_url: str
    step_ms: float
    extra: dict[str, str]
    folder: Path
    rounds: dict[str, list[Round]] = field(default_factory=dict)
    _served: int = 0

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
        self.processes = {
            "worker": self._run("headrace_worker", shared | worker),
            "API node": self._run("headrace_api", shared | {"HEADRACE_API_PORT": str(self.port)}),
        }
        for process in self.processes.values():
            stack.callback(process.wait)
            stack.callback(process.send_signal, signal.SIGTERM)

    def _run(self, package: str, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
        report = {REPORT: str(self.folder / package)}
        return subprocess.Popen([sys.executable, __file__, "--run", package], env=environment | report)

    def serves(self) -> bool:
        try:
            ready = httpx.get(f"http://127.0.0.1:{self.port}/ready").json()
        except httpx.HTTPError:
            return False
        return any(model["id"] == self.name for model in ready["models"])

    async def measure(self, rounds: int, load: Load) -> None:
        users = [asyncio.create_task(self._use(number, load.tokens)) for number in range(load.streams)]
        try:
            await asyncio.sleep(ROUND_S)
            await self._round()
            self.rounds = {name: [] for name in self.processes}
            for _ in range(rounds):
                for name, measured in (await self._round()).items():
                    self.rounds[name].append(measured)
        finally:
            for user in users:
                user.cancel()
            await asyncio.gather(*users, return_exceptions=True)

    async def _round(self) -> dict[str, Round]:
        served, before_ns = self._served, {name: self._cpu_ns(name) for name in self.processes}
        await asyncio.sleep(ROUND_S)
        requests = self._served - served
        found = {}
        for name, process in self.processes.items():
            whole_ns = self._cpu_ns(name) - before_ns[name]
            report = self.folder / process.args[-1]  # type: ignore[index]
            report.unlink(missing_ok=True)
            process.send_signal(signal.SIGUSR1)
            await asyncio.to_thread(wait_until, partial(_is_whole, report), "the process has told")
            calls_ns, sending_ns, meter_ns = json.loads(report.read_text())
            rest_ns = whole_ns - calls_ns - sending_ns - meter_ns
            of_time = 100 * (calls_ns + sending_ns) / (ROUND_S * 1e9)
            found[name] = Round(*(ns / requests / 1000 for ns in (rest_ns, calls_ns, sending_ns)), of_time)
        return found

    def tell(self) -> None:
        for name, rounds in self.rounds.items():
            rest, calls, sending, of_time = (
                statistics.median(getattr(each, part) for each in rounds)
                for part in ("rest_us", "calls_us", "sending_us", "of_time")
            )
            shares = [each.share for each in rounds]
            low, high = confidence(shares)
            print(
                f"{self.name:<8} {name:<9} {rest:7,.0f} us a request, and {calls:5.1f} in calls, {sending:5.1f} sending:"
                f" {statistics.median(shares):.2f} % more (95 %: {low:.2f} to {high:.2f}; least {min(shares):.2f});"
                f" {of_time:.2f} % of the time"
            )

    async def _use(self, number: int, tokens: int) -> None:
        await asyncio.sleep(number * self.step_ms / 1000)  # not all in step
        while True:
            await self._stream(number, tokens)
            self._served += 1

    async def _stream(self, seed: int, tokens: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**22)
        options = {"max_tokens": tokens, "seed": seed, "stream": True, "ignore_eos": True}
        body = json.dumps({"model": self.name, "prompt": [300, 301, 302], **options}).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = await reader.read(-1)
        writer.close()
        assert b"data: [DONE]" in answer

    def _cpu_ns(self, name: str) -> int:
        """Of all threads that there are or were: the counters in /proc have steps of 10 ms."""
        return time.clock_gettime_ns(~self.processes[name].pid << 3 | 2)


def _is_whole(report: Path) -> bool:
    return report.exists() and report.read_text().endswith("]")


def confidence(values: list[float]) -> tuple[float, float]:
    """Where their median lies with 95 % confidence, by drawing from them again and again."""
    dice = random.Random(0)
    medians = sorted(statistics.median(dice.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return medians[RESAMPLES // 40], medians[-RESAMPLES // 40]


def main(names: Sequence[str], rounds: int, step_ms: float, load: Load) -> None:
    with ExitStack() as stack:
        collector = stack.enter_context(trace_collector())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(EmbeddedRedis(folder / "valkey"))
        traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        sampled = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.05"}
        extras: dict[str, dict[str, str]] = {METRICS: {}, SAMPLED: traced | sampled, TRACES: traced}
        for name in names:
            arm = Arm(name, redis.url, step_ms, extras[name], folder)
            with ExitStack() as processes:
                arm.start(processes)
                wait_until(arm.serves, f"{name} serves", 120)
                asyncio.run(arm.measure(rounds, load))
            arm.tell()
            collector.spans.clear()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure what metrics and traces cost.")
    parser.add_argument("--fleets", nargs="+", default=FLEETS, choices=FLEETS)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--step-ms", type=float, default=0.0)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        sys.exit(run_metered(given.run))
    else:
        main(given.fleets, given.rounds, given.step_ms, Load(given.streams, given.tokens))
