"""A randomised fault campaign: users stream while real processes die, and every answer is compared.

    python tests/support/campaign.py --seed 7 --kills 500

Needs nothing that runs: it starts a Valkey with an append-only file, workers with the simulated engine, and API nodes.
Exits with 1 when a client lost, got twice or got another token.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from campaign_faults import Faults
from campaign_users import KINDS, Answer, Tally, Users
from fleet import fleet_on
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from headrace_cli.embedded_redis import EmbeddedRedis
from headrace_shared.clock import mono_s

_CASES = 6 * len(KINDS)
_PAUSE_S = 0.3
"""Between two faults, on average."""


@dataclass(frozen=True)
class Report:
    tally: Tally
    done: dict[str, int]
    kills: int
    seconds: float


def run_campaign(
    folder: Path, seed: int, kills: int, users: int, on_kills: Callable[[int], None] = lambda kills: None
) -> Report:
    """Until ``kills`` processes were killed. ``on_kills`` hears how many were so far."""
    random = Random(seed)
    with EmbeddedRedis(folder) as valkey, fleet_on(valkey.url) as fleet:
        faults = Faults(fleet, valkey, random)
        return asyncio.run(_campaign(faults, kills, users, on_kills))


async def _campaign(faults: Faults, kills: int, count: int, on_kills: Callable[[int], None]) -> Report:
    tally, over = Tally(), asyncio.Event()
    calm = Users(faults.nodes, Tally(), Random(0))
    users = Users(faults.nodes, tally, Random(1))
    try:
        undisturbed = await asyncio.gather(*(calm.ask(case) for case in range(_CASES)))
        began_s = mono_s()
        running = [asyncio.create_task(_user(users, Random(n), undisturbed, over)) for n in range(count)]
        try:
            while faults.kills < kills:
                await faults.one()
                on_kills(faults.kills)
                await asyncio.sleep(_PAUSE_S)
        finally:
            over.set()
        await asyncio.gather(*running)
        return Report(tally, dict(faults.done), faults.kills, mono_s() - began_s)
    finally:
        await calm.aclose()
        await users.aclose()


async def _user(users: Users, random: Random, undisturbed: list[Answer], over: asyncio.Event) -> None:
    while not over.is_set():
        case = random.randrange(_CASES)
        try:
            users.tally.compare(case, await users.ask(case), undisturbed[case])
        except TimeoutError as error:
            users.tally.lost += 1
            users.tally.complaints.append(f"case {case}: never answered, last {error.__cause__!r}")


def _show(report: Report, console: Console) -> None:
    tally = report.tally
    table = Table("", "count", title=f"{report.kills} kills in {report.seconds:.0f} s")
    for name in sorted(report.done):
        table.add_row(name, str(report.done[name]))
    table.add_section()
    rows = {
        "answers compared": tally.answers,
        "of them taken up again by their client": tally.repeated,
        "streams resumed from the last event": tally.resumed,
        "longest gap between two events, s": f"{tally.longest_gap_s:.1f}",
        "lost": tally.lost,
        "duplicated": tally.twice,
        "changed": tally.changed,
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    console.print(table)
    for complaint in tally.complaints[:20]:
        console.print(complaint, markup=False)


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill processes at random under load, and compare every answer.")
    parser.add_argument("--seed", type=int, default=1, help="draws the faults (default 1)")
    parser.add_argument("--kills", type=int, default=500, help="processes to kill (default 500)")
    parser.add_argument("--users", type=int, default=24, help="requests at a time (default 24)")
    asked = parser.parse_args()
    console = Console()
    columns = TextColumn("killed"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with tempfile.TemporaryDirectory() as folder, Progress(*columns, console=console) as progress:
        task = progress.add_task("killed", total=asked.kills)
        report = run_campaign(
            Path(folder) / "valkey",
            asked.seed,
            asked.kills,
            asked.users,
            lambda kills: progress.update(task, completed=kills),
        )
    _show(report, console)
    return 1 if report.tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
