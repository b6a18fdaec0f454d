"""``headrace bench``: one load run, shown and if wanted written to a file."""

import asyncio
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import uvloop

from headrace_cli.bench.connection import Target
from headrace_cli.bench.load import Load, first_model
from headrace_cli.bench.measures import Measurement, Summary, summarise
from headrace_cli.bench.report import report
from headrace_cli.bench.workload import Workload
from headrace_cli.errors import EXIT_FAILURE, CliError
from headrace_cli.terminal import Terminal


@dataclass(frozen=True)
class BenchSettings:
    """``rate_per_s`` None: a closed loop of ``concurrency`` requests. ``workload.model`` empty: the server's first."""

    url: str
    api_key: str | None
    workload: Workload
    concurrency: int
    rate_per_s: float | None
    warmup: int
    json_file: Path | None


def run(settings: BenchSettings, terminal: Terminal) -> int:
    """Measure and report; the exit status is 1 when a request failed."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        workload, measurements = runner.run(_measure(settings, terminal))
    summary = summarise(measurements)
    terminal.line(report(summary, measurements))
    if settings.json_file is not None:
        _write(settings.json_file, settings, workload, summary)
    return EXIT_FAILURE if summary.failed else 0


async def _measure(settings: BenchSettings, terminal: Terminal) -> tuple[Workload, list[Measurement]]:
    target = Target.parse(settings.url, settings.api_key)
    workload = settings.workload
    if not workload.model:
        workload = replace(workload, model=await first_model(target))
    if settings.warmup:
        # Other prompts than the run's, which a prefix cache would otherwise know.
        warm = Load(target, replace(workload, requests=settings.warmup, seed=workload.seed + 1), lambda _: None)
        failed = [m.error for m in await warm.closed_loop(settings.concurrency) if m.error is not None]
        if failed:
            raise CliError(f"the server does not answer as expected: {failed[0]}")
    pace = f"{settings.rate_per_s:g} per second" if settings.rate_per_s else f"{settings.concurrency} at once"
    shape = f"{workload.input_tokens} prompt and {workload.output_tokens} output tokens"
    terminal.line(f"{workload.requests} requests of {shape} to {workload.model}, {pace}\n")
    with terminal.counting("Requests", workload.requests) as count:
        load = Load(target, workload, lambda _: count.one_more())
        if settings.rate_per_s:
            return workload, await load.open_loop(settings.rate_per_s)
        return workload, await load.closed_loop(settings.concurrency)


def _write(file: Path, settings: BenchSettings, workload: Workload, summary: Summary) -> None:
    result = {
        "url": settings.url,
        "concurrency": None if settings.rate_per_s else settings.concurrency,
        "rate_per_s": settings.rate_per_s,
        "workload": asdict(workload),
        "summary": summary.as_dict(),
    }
    try:
        file.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise CliError(f"cannot write {file}: {error.strerror}") from None
