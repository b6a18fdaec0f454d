"""How far steps and their linear layers are from what the machine can do at most, in each precision.

    OMP_WAIT_POLICY=PASSIVE python tests/benchmarks/roofline.py [MODEL] [--svg docs/roofline.svg]

Measures how fast the machine reads memory, and multiplies and adds in registers (needs a C compiler); then each step,
and its linear layers by themselves. Their limit is the longer of two times: reading every weight once, and all products
and sums. Prints Markdown; figures are minima over several runs, taken in turn. MODEL is a local directory, the demo
model if nothing is said.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import torch
from engine_steps import Clock, LeanParts, LinearWork, decode_plan, prefill_plan, write_caches
from exactness import PRECISIONS, build_as
from machine_limits import ARITHMETIC, MachineLimits, measure_limits
from roofline_picture import Point, Roof, picture

from headrace_cli import demo_model
from headrace_cli.terminal import Terminal
from headrace_worker.execute.build import BuiltRunner
from headrace_worker.execute.native.library import load_kernels
from headrace_worker.execute.threads import usable_cores
from headrace_worker.schedule.plan import Plan

BATCHES, PREFILL = (1, 8, 32), 512
CACHE_BYTES = 512 << 20


@dataclass(frozen=True)
class Measured:
    """One step in one precision."""

    title: str
    rows: int
    precision: str
    step_ms: float
    linear_ms: float
    work: LinearWork


def measure(model: str, precisions: list[str], context: int, runs: int) -> list[Measured]:
    built = {name: build_as(model, name, CACHE_BYTES) for name in precisions}
    for each in built.values():
        write_caches(each.runner._attention.cache.layers)
    found = []
    for batch in BATCHES:
        found += measure_step(f"Decode, batch {batch}", decode_plan(batch, context), built, Clock(runs))
    return found + measure_step(f"Prefill {PREFILL}", prefill_plan(PREFILL), built, Clock(max(2, runs // 3)))


def measure_step(title: str, plan: Plan, built: dict[str, BuiltRunner], clock: Clock) -> list[Measured]:
    parts = {name: LeanParts(each) for name, each in built.items()}
    jobs: dict[str, Callable[[], object]] = {}
    for name, each in built.items():
        jobs[f"{name}, step"] = lambda each=each: each.runner.execute(plan)
        jobs[f"{name}, linear"] = parts[name].linear(plan)
    best = clock.least_ms(jobs)
    return [
        Measured(title, plan.num_tokens, name, best[f"{name}, step"], best[f"{name}, linear"], each.work(plan))
        for name, each in parts.items()
    ]


def table(found: list[Measured], limits: MachineLimits) -> str:
    lines = [
        "| | | Step | Linear layers | Their limit | set by | Linear layers / limit | Step / limit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in found:
        needs = (each.precision, each.work.operations, each.work.bytes)
        least, reads = limits.least_ms(*needs), limits.reads_longer(*needs)
        lines.append(
            f"| {each.title} | {each.precision} | {each.step_ms:.1f} ms | {each.linear_ms:.1f} ms | {least:.1f} ms "
            f"| {'memory' if reads else 'arithmetic'} | {each.linear_ms / least:.2f} | {each.step_ms / least:.2f} |"
        )
    return "\n".join(lines)


def drawn(found: list[Measured], limits: MachineLimits) -> str:
    ordered = sorted(found, key=lambda each: (list(PRECISIONS).index(each.precision), each.rows))
    points = [
        Point(
            each.precision,
            str(each.rows),
            each.work.operations / each.work.bytes,
            each.work.operations / each.linear_ms * 1e3,
        )
        for each in ordered
    ]
    kinds = dict.fromkeys(ARITHMETIC[each.precision] for each in ordered)
    names = {"float32": "float32 products", "int16": "16-bit products"}
    roofs = [Roof(names[kind], limits.operations_per_s[kind]) for kind in kinds]
    title = f"Linear layers at so many rows, {limits.threads} threads"
    return picture(title, points, roofs, limits.read_bytes_per_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--context", type=int, default=200)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--only", default="float32,float16,int8,int4", help="precisions, comma separated")
    parser.add_argument("--svg", type=Path, help="draw the roofline into this file")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    limits = measure_limits(given.threads)
    rates = ", ".join(f"{kind} {rate / 1e9:.0f}" for kind, rate in limits.operations_per_s.items())
    print(
        f"{limits.threads} threads, kernels for {load_kernels().isa}: memory is read at "
        f"{limits.read_bytes_per_s / 1e9:.1f} GB/s; at most {rates} · 10⁹ operations/s\n",
        flush=True,
    )
    model = given.model or str(demo_model.ensure(Terminal()))
    found = measure(model, given.only.split(","), given.context, given.runs)
    print(table(found, limits))
    if given.svg is not None:
        given.svg.write_text(drawn(found, limits), "utf-8")


if __name__ == "__main__":
    main()
