"""``headrace bench compare``: every load in turns on both servers, shown, drawn and written down."""

import asyncio
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from headrace_cli.bench.compare import Cell, Comparison, Side, compare, warm_up
from headrace_cli.bench.compare_report import picture, table
from headrace_cli.bench.connection import Target
from headrace_cli.bench.load import first_model
from headrace_cli.errors import EXIT_FAILURE, CliError
from headrace_cli.terminal import Terminal


@dataclass(frozen=True)
class Peer:
    """``model`` None: the first that the server lists."""

    url: str
    name: str
    api_key: str | None
    model: str | None


@dataclass(frozen=True)
class CompareSettings:
    peers: tuple[Peer, Peer]
    cells: tuple[Cell, ...]
    pairs: int
    seed: int
    json_file: Path | None
    svg_file: Path | None


def run(settings: CompareSettings, terminal: Terminal) -> int:
    """Measure and report; the exit status is 1 when a request failed."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(_measure(settings, terminal))
    a, b = settings.peers
    if settings.json_file is not None:
        loads = [
            {"load": asdict(each.cell), "metrics": [row.as_dict() for row in each.rows()], "errors": each.errors}
            for each in found
        ]
        result = {"a": {"name": a.name, "url": a.url}, "b": {"name": b.name, "url": b.url}, "loads": loads}
        _write(settings.json_file, json.dumps(result, indent=2) + "\n")
    if settings.svg_file is not None:
        _write(settings.svg_file, picture(found, (a.name, b.name)))
    return EXIT_FAILURE if any(each.errors for each in found) else 0


async def _measure(settings: CompareSettings, terminal: Terminal) -> list[Comparison]:
    sides = (await _side(settings.peers[0]), await _side(settings.peers[1]))
    for letter, side in zip("AB", sides, strict=True):
        terminal.line(f"{letter}: {side.model} at {side.name}")
    found = []
    for number, cell in enumerate(settings.cells):
        # Prompts that no pair of any load has.
        seed = settings.seed + number * (settings.pairs + 1)
        with terminal.counting(f"Load {cell.title}", 2 * settings.pairs * cell.requests) as count:
            await warm_up(cell, sides, seed + settings.pairs)
            comparison = await compare(cell, sides, settings.pairs, seed, lambda _: count.one_more())
        terminal.line(f"\n{table(comparison)}")
        found.append(comparison)
    return found


async def _side(peer: Peer) -> Side:
    target = Target.parse(peer.url, peer.api_key)
    return Side(peer.name, target, peer.model or await first_model(target))


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, "utf-8")
    except OSError as error:
        raise CliError(f"cannot write {file}: {error.strerror}") from None
