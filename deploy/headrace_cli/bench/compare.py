"""Two servers under the same load, in turns: what differs between them, and how surely."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headrace_cli.bench.connection import Target
from headrace_cli.bench.load import Load, OnDone
from headrace_cli.bench.measures import Measurement, Spread, Summary, summarise
from headrace_cli.bench.workload import Mode, Workload
from headrace_cli.errors import CliError

Run = list[Measurement]


@dataclass(frozen=True)
class Side:
    """One of the two servers."""

    name: str
    target: Target
    model: str


@dataclass(frozen=True)
class Cell:
    """One load: so long prompts and answers, so many at once, so many in each run."""

    name: str
    input_tokens: int
    output_tokens: int
    concurrency: int
    requests: int
    mode: Mode = "tokens"

    @property
    def title(self) -> str:
        return f"{self.name}, {self.concurrency} at once"

    def workload(self, model: str, seed: int) -> Workload:
        return Workload(model, self.mode, self.requests, self.input_tokens, self.output_tokens, seed)


@dataclass(frozen=True)
class Metric:
    """A figure of a run. ``of``: None where the run has none."""

    name: str
    of: Callable[[Summary], float | None]
    of_all: Callable[[Sequence[Run]], float | None]
    """The same of several runs together."""


@dataclass(frozen=True)
class Row:
    """One metric of both, and the quotients B / A of each pair."""

    metric: str
    a: float
    b: float
    ratios: list[float]

    @property
    def ratio(self) -> float:
        """The pairs' geometric mean: A / B would be its reciprocal."""
        return math.exp(statistics.fmean(map(math.log, self.ratios)))

    def as_dict(self) -> dict[str, Any]:
        return {"metric": self.metric, "a": self.a, "b": self.b, "ratio": self.ratio, "ratios": self.ratios}


@dataclass
class Comparison:
    """What one load brought: a run of each server per pair."""

    cell: Cell
    pairs: list[tuple[Run, Run]]

    @property
    def errors(self) -> dict[str, int]:
        """Messages of requests that failed, with the letter of their server before them, and how many had each."""
        counts: dict[str, int] = {}
        for pair in self.pairs:
            for letter, run in zip("AB", pair, strict=True):
                for error in (m.error for m in run if m.error is not None):
                    counts[f"{letter}: {error}"] = counts.get(f"{letter}: {error}", 0) + 1
        return counts

    def rows(self) -> list[Row]:
        """One for each metric that both servers have in some pair."""
        rows = []
        for metric in METRICS:
            both = [(metric.of(summarise(a)), metric.of(summarise(b))) for a, b in self.pairs]
            ratios = [b / a for a, b in both if a and b]
            a, b = (metric.of_all([pair[side] for pair in self.pairs]) for side in (0, 1))
            if ratios and a and b:
                rows.append(Row(metric.name, a, b, ratios))
        return rows


async def compare(cell: Cell, sides: tuple[Side, Side], pairs: int, seed: int, on_done: OnDone) -> Comparison:
    """Run ``pairs`` pairs, the first of each in turns, so that what changes with time meets both alike.

    Both get the same prompts in a pair, and new ones in every pair, so that no prefix cache knows them.
    """
    found = []
    for number in range(pairs):
        runs: dict[int, Run] = {}
        for index in (0, 1) if number % 2 == 0 else (1, 0):
            side = sides[index]
            load = Load(side.target, cell.workload(side.model, seed + number), on_done)
            runs[index] = await load.closed_loop(cell.concurrency)
        found.append((runs[0], runs[1]))
    return Comparison(cell, found)


async def warm_up(cell: Cell, sides: tuple[Side, Side], seed: int) -> None:
    """As many requests as run at once, to each. Raises CliError when one fails."""
    for side in sides:
        workload = replace(cell.workload(side.model, seed), requests=cell.concurrency)
        for measurement in await Load(side.target, workload, lambda _: None).closed_loop(cell.concurrency):
            if measurement.error is not None:
                raise CliError(f"{side.name} does not answer as expected: {measurement.error}")


def _spread(name: str, share: str, spread: Callable[[Summary], Spread | None]) -> Metric:
    def of(summary: Summary) -> float | None:
        found = spread(summary)
        return None if found is None else float(getattr(found, share))

    def of_all(runs: Sequence[Run]) -> float | None:
        return of(summarise([m for run in runs for m in run]))

    return Metric(f"{name} {share}, ms", of, of_all)


def _median_throughput(runs: Sequence[Run]) -> float:
    return statistics.median(summarise(run).output_tokens_per_s for run in runs)


METRICS = (
    Metric("Output tokens/s", lambda summary: summary.output_tokens_per_s, _median_throughput),
    *(_spread("TTFT", share, lambda summary: summary.ttft_ms) for share in ("p50", "p90", "p99")),
    *(_spread("ITL", share, lambda summary: summary.itl_ms) for share in ("p50", "p90", "p99")),
    *(_spread("E2E", share, lambda summary: summary.e2e_ms) for share in ("p50", "p99")),
)
