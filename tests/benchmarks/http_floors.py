"""Output tokens per second over HTTP with the demo model, beside what they are to be at least, and at most can be.

    OMP_WAIT_POLICY=PASSIVE python tests/benchmarks/http_floors.py [--only float32,int8] [--rounds 2]
        [--peer llama.cpp=http://127.0.0.1:9001] [--peer 'llama.cpp Q8_0:int8=http://127.0.0.1:9002']

Starts headrace serve once for each precision, and asks all of them and the peers in turn, one load after the other:
A (128-token prompts, 64 new tokens), B (16 and 128), and prompts of 512 tokens for a single new one. All servers stay in
memory, only one has work. The limit is that of the linear layers alone, measured here before any server starts: prompts
and decoding one after the other, at the batch that the load allows, and nothing else. A peer is any OpenAI-compatible
server; it is compared with float32, or with the precision behind its name. Prints Markdown; the median of the rounds.
"""

import argparse
import asyncio
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import uvloop
from local_serve import FLAGS, serving
from roofline import PREFILL, Measured, measure

from headrace_cli import demo_model
from headrace_cli.bench.compare import Cell, Side
from headrace_cli.bench.connection import Target
from headrace_cli.bench.load import Load, first_model
from headrace_cli.bench.measures import Summary, summarise
from headrace_cli.bench.options import LOADS
from headrace_cli.terminal import Terminal

CONTEXT = 200
REQUESTS = {1: 4, 8: 16, 32: 64}
CELLS = [
    *(Cell(name, *LOADS[name], at_once, requests) for name in LOADS for at_once, requests in REQUESTS.items()),
    *(Cell("prefill", PREFILL, 1, at_once, 8) for at_once in (1, 4)),
]
FLOORS = {
    "float32": (33, 90, 125, 42, 160, 290, 430, 430),
    "float16": (48, 115, 135, 65, 240, 340, 440, 440),
    "int8": (60, 115, 150, 90, 210, 320, 500, 500),
}
"""What each cell is to reach on two cores with AVX2."""


@dataclass(frozen=True)
class Peer:
    """Somebody else's server, and which of ours it is compared with."""

    name: str
    precision: str
    url: str

    @classmethod
    def parse(cls, text: str) -> "Peer":
        name, _, url = text.partition("=")
        plain, _, precision = name.rpartition(":")
        return cls(plain, precision, url) if precision in FLAGS else cls(name, "float32", url)


@dataclass
class Figures:
    """What one server did, cell by cell, in each round."""

    name: str
    precision: str
    runs: list[list[Summary]] = field(default_factory=lambda: [[] for _ in CELLS])

    def tokens_per_s(self) -> list[float]:
        """0 where a request failed."""
        return [median(_rate(cell, run) for run in runs) for cell, runs in zip(CELLS, self.runs, strict=True)]

    def times_ms(self) -> Iterator[str]:
        for runs in self.runs:
            firsts = [run.ttft_ms.p50 for run in runs if run.ttft_ms is not None]
            gaps = [run.itl_ms.p50 for run in runs if run.itl_ms is not None]
            yield " / ".join(f"{median(values):.0f}" if values else "-" for values in (firsts, gaps))


def _rate(cell: Cell, run: Summary) -> float:
    if run.failed or run.duration_s <= 0:
        return 0.0
    return run.prompt_tokens / run.duration_s if cell.name == "prefill" else run.output_tokens_per_s


def limits(found: list[Measured], precision: str) -> list[float]:
    """Tokens per second of each cell if there were nothing but the linear layers."""
    linear_s = {each.rows: each.linear_ms / 1e3 for each in found if each.precision == precision}
    prompt_s = linear_s[PREFILL] / PREFILL
    told = []
    for cell in CELLS:
        if cell.name == "prefill":
            told.append(1 / prompt_s)
            continue
        wave_s = cell.concurrency * cell.input_tokens * prompt_s + cell.output_tokens * linear_s[cell.concurrency]
        told.append(cell.concurrency * cell.output_tokens / wave_s)
    return told


async def run(side: Side, cell: Cell, seed: int) -> Summary:
    load = Load(side.target, cell.workload(side.model, seed), lambda _: None)
    summary = summarise(await load.closed_loop(cell.concurrency))
    for error, count in summary.errors.items():
        print(f"{side.name}, {cell.title}: {count} x {error}", file=sys.stderr)
    return summary


async def ask_all(urls: list[tuple[str, str, str]], rounds: int) -> list[Figures]:
    """``urls``: name, precision and URL of each server."""
    targets = [Target.parse(url, None) for _, _, url in urls]
    sides = [Side(name, target, await first_model(target)) for (name, _, _), target in zip(urls, targets, strict=True)]
    figures = [Figures(name, precision) for name, precision, _ in urls]
    for side in sides:
        await run(side, Cell("warm-up", 128, 16, 8, 8), seed=1)
    for number, cell in enumerate(CELLS):
        print(f"load {cell.title} ...", file=sys.stderr, flush=True)
        for turn in range(rounds):
            pairs = list(zip(sides, figures, strict=True))
            for side, kept in pairs if turn % 2 == 0 else reversed(pairs):
                kept.runs[number].append(await run(side, cell, seed=100 + number * rounds + turn))
    return figures


def report(own: list[Figures], others: list[Figures], found: list[Measured]) -> str:
    heads = [f"{cell.name} c={cell.concurrency}" for cell in CELLS]
    rule = "|---" * (1 + len(CELLS)) + "|"
    lines = [_row("Tokens/s", heads), rule]
    reached = {each.precision: each.tokens_per_s() for each in own}
    for precision, rates in reached.items():
        lines.append(_row(f"Headrace {precision}", _numbers(rates)))
        if precision in FLOORS:
            lines.append(_row("at least", _numbers(FLOORS[precision])))
            lines.append(_row("share of it", _shares(rates, FLOORS[precision])))
        most = limits(found, precision)
        lines.append(_row("linear layers alone, here", _numbers(most)))
        lines.append(_row("share of it", _shares(rates, most)))
    for each in others:
        rates = each.tokens_per_s()
        lines.append(_row(each.name, _numbers(rates)))
        if each.precision in reached:
            lines.append(_row(f"Headrace {each.precision} / {each.name}", _shares(reached[each.precision], rates)))
    lines += ["", _row("TTFT / ITL p50, ms", heads), rule]
    return "\n".join([*lines, *(_row(each.name, list(each.times_ms())) for each in (*own, *others))])


def _numbers(rates: Sequence[float]) -> list[str]:
    return [f"{rate:.0f}" if rate else "failed" for rate in rates]


def _shares(rates: Sequence[float], of: Sequence[float]) -> list[str]:
    return [f"{rate / other:.2f}" if other else "-" for rate, other in zip(rates, of, strict=True)]


def _row(name: str, cells: list[str]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(FLOORS), help="precisions, comma separated")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--peer", action="append", type=Peer.parse, default=[], metavar="NAME[:PRECISION]=URL")
    given = parser.parse_args()
    precisions = given.only.split(",")
    model = str(demo_model.ensure(Terminal()))
    # In a process of its own, whose memory and threads are gone before the servers start.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(measure, model, precisions, CONTEXT, 8).result()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        urls = []
        for precision in precisions:
            arguments = (model, "--kv-cache-memory", "1GiB", *FLAGS[precision])
            server = stack.enter_context(serving(Path(folder) / precision, *arguments))
            urls.append((f"Headrace {precision}", precision, server.url))
        urls += [(peer.name, peer.precision, peer.url) for peer in given.peer]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            figures = runner.run(ask_all(urls, given.rounds))
    print(report(figures[: len(precisions)], figures[len(precisions) :], found))


if __name__ == "__main__":
    main()
