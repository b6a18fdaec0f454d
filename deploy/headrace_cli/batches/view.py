"""Batches as a table, and one as a progress bar."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from rich.table import Table
from rich.text import Text

from headrace_cli.batches.client import ENDED, Batch, BatchClient, LostServerError
from headrace_cli.errors import EXIT_FAILURE
from headrace_cli.terminal import Tally, Terminal
from headrace_shared.clock import mono_s

_COLUMNS = ("id", "status", "done", "failed", "endpoint", "model", "created")
_RETRY_S = 2.0
_PATIENCE_S = 300.0
"""How long a server that is being watched may be away."""


def table(batches: Sequence[Batch]) -> tuple[Table, str]:
    """For a terminal, and as plain lines."""
    rows = [_row(batch) for batch in batches]
    drawn = Table(box=None, padding=(0, 2, 0, 0))
    for name in _COLUMNS:
        drawn.add_column(name, justify="right" if name in ("done", "failed") else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    return drawn, "\n".join("\t".join(row) for row in [_COLUMNS, *rows])


def _row(batch: Batch) -> tuple[str, ...]:
    counts = batch["request_counts"]
    created = datetime.fromtimestamp(batch["created_at"], UTC)
    return (
        batch["id"],
        batch["status"],
        f"{_ended(counts)}/{counts['total']}",
        str(counts["failed"]),
        batch["endpoint"],
        batch.get("model") or "",
        f"{created:%Y-%m-%d %H:%M:%S}Z",
    )


def follow(client: BatchClient, batch_id: str, terminal: Terminal) -> int:
    """Until it has ended, across broken connections; the exit status. Raises CliError when it cannot be followed."""
    before = client.show(batch_id)
    _tell(terminal, before)
    with contextlib.ExitStack() as stack:
        tally: Tally | None = None
        for batch in _states(client, before):
            if tally is not None:
                _count(tally, before["request_counts"], batch["request_counts"])
            elif (total := (counts := batch["request_counts"])["total"]) and batch["status"] not in ENDED:
                # How many there are is known once its input is checked.
                tally = stack.enter_context(terminal.tallying("Items", total, _ended(counts), counts["failed"]))
            if batch["status"] != before["status"]:
                _tell(terminal, batch)
            before = batch
    for error in (before["errors"] or {}).get("data", []):
        where = f"line {error['line']}: " if error["line"] else ""
        terminal.line(f"  {where}{error['message']}")
    for name in ("output_file_id", "error_file_id"):
        if before[name]:
            terminal.line(f"  {name.removesuffix('_file_id')}: {before[name]}")
    return 0 if before["status"] == "completed" else EXIT_FAILURE


def _states(client: BatchClient, batch: Batch) -> Iterator[Batch]:
    """What ``batch`` is from now on, its end last."""
    heard_s = mono_s()
    while batch["status"] not in ENDED:
        try:
            for batch in client.changes(batch["id"]):  # noqa: B020 - the newest state is what it is
                heard_s = mono_s()
                yield batch
        except LostServerError:
            if mono_s() - heard_s > _PATIENCE_S:
                raise
        if batch["status"] not in ENDED:
            time.sleep(_RETRY_S)


def _tell(terminal: Terminal, batch: Batch) -> None:
    counts = batch["request_counts"]
    told = f", {counts['completed']:,} of {counts['total']:,} completed, {counts['failed']:,} failed"
    terminal.line(f"{batch['id']} is {batch['status']}{told if counts['total'] else ''}")


def _count(tally: Tally, before: dict[str, int], now: dict[str, int]) -> None:
    for name in ("completed", "failed"):
        if more := now[name] - before[name]:
            tally.ended(well=name == "completed", count=more)


def _ended(counts: dict[str, int]) -> int:
    return counts["completed"] + counts["failed"]
