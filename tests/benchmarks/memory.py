"""What a worker keeps in memory: the weights once, the KV blocks as computed, and nothing of requests that are over.

    OMP_WAIT_POLICY=PASSIVE python tests/benchmarks/memory.py [--requests 10000] [--precision int8] [--model DIRECTORY]

First an engine by itself, in a process that does nothing else: by how much that grew, against the bytes of the weights
and of the KV cache, whose pages are taken as they are first written. Then headrace serve, which answers short requests
over HTTP, 32 at once, and what its processes have after each tenth of them: resident, and proportional where pages are
shared. The first tenth fills the KV cache and every other one. Prints Markdown; gates nothing.
"""

import argparse
import asyncio
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import uvloop
from engine_steps import LeanParts
from exactness import build_as
from local_serve import FLAGS, LocalServe, serving

from headrace_cli import demo_model
from headrace_cli.bench.connection import Target
from headrace_cli.bench.load import Load, first_model
from headrace_cli.bench.measures import summarise
from headrace_cli.bench.workload import Workload
from headrace_cli.terminal import Terminal

MIB = 1 << 20
CACHE_BYTES = 256 * MIB
CONCURRENCY, PROMPT, ANSWER = 32, 16, 3
PROCESSES = {"worker": "headrace_worker", "API node": "headrace_api"}


@dataclass(frozen=True)
class Held:
    """MiB of one process."""

    resident: float
    proportional: float

    @classmethod
    def of(cls, pid: int | str) -> "Held":
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        return cls(kib["Rss"] / 1024, kib["Pss"] / 1024)

    def __str__(self) -> str:
        return f"{self.resident:.1f} ({self.proportional:.1f})"


@dataclass(frozen=True)
class Engine:
    """MiB of an engine by itself, in a process of its own."""

    weights: float
    cache: float
    before: float
    """Python, torch and transformers, before there is a model."""
    grew: float


def build_alone(model: str, precision: str) -> Engine:
    """The first engine warms up what is loaded once for all; the second one is measured, and holds itself alone."""
    before = Held.of("self").resident
    built = build_as(model, precision, CACHE_BYTES)
    grew = Held.of("self").resident - before
    cache = built.runner._attention.cache.num_bytes
    return Engine(LeanParts(built).weight_bytes / MIB, cache / MIB, before, grew)


async def ask(url: str, model: str, requests: int, seed: int) -> float:
    """Seconds that so many requests took. Raises AssertionError when one failed."""
    target = Target.parse(url, None)
    workload = Workload(model, "tokens", requests, PROMPT, ANSWER, seed)
    begin = time.monotonic()
    summary = summarise(await Load(target, workload, lambda _: None).closed_loop(CONCURRENCY))
    assert not summary.failed, summary.errors
    return time.monotonic() - begin


def watch(server: LocalServe, requests: int) -> tuple[list[str], list[dict[str, Held]]]:
    """Rows of a table, and what each process had at the start and after each tenth of the requests."""
    pids = {name: server.child(package).pid for name, package in PROCESSES.items()}
    seen = [{name: Held.of(pid) for name, pid in pids.items()}]
    rows = [f"| 0 | {' | '.join(str(held) for held in seen[0].values())} | |"]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        model = runner.run(first_model(Target.parse(server.url, None)))
        for tenth in range(1, 11):
            took_s = runner.run(ask(server.url, model, requests // 10, tenth))
            seen.append({name: Held.of(pid) for name, pid in pids.items()})
            told = " | ".join(str(held) for held in seen[-1].values())
            rows.append(f"| {tenth * requests // 10} | {told} | {requests / 10 / took_s:.0f} |")
            print(rows[-1], file=sys.stderr, flush=True)
    return rows, seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--precision", choices=FLAGS, default="float32")
    parser.add_argument("--model", help="a local directory; the demo model if nothing is said")
    given = parser.parse_args()
    model = given.model or str(demo_model.ensure(Terminal()))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        engine = pool.submit(build_alone, model, given.precision).result()
    print(
        f"An engine in {given.precision}: weights {engine.weights:.1f} MiB, KV cache {engine.cache:.1f} MiB; "
        f"building it took {engine.grew:.1f} MiB, {engine.grew - engine.weights:.1f} more than the weights, "
        f"in a process that had {engine.before:.1f} MiB before\n",
        flush=True,
    )
    arguments = (model, "--kv-cache-memory", f"{CACHE_BYTES // MIB}MiB", *FLAGS[given.precision])
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "serve", *arguments) as server:
        rows, seen = watch(server, given.requests)
    titles = " | ".join(f"{name}, MiB (proportional)" for name in PROCESSES)
    print("\n".join([f"| Requests | {titles} | per second |", "|---|---|---|---|", *rows]))
    first, last = seen[1], seen[-1]
    grown = (f"{name} {last[name].resident - first[name].resident:+.1f} MiB" for name in PROCESSES)
    print(f"\nFrom the first tenth to the last: {', '.join(grown)}")


if __name__ == "__main__":
    main()
