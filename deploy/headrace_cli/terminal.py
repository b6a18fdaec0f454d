"""Terminal: colours and spinners for a person, plain lines without control characters for a file or a pipe."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from headrace_shared.clock import mono_s

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_STYLES = {"queue": "magenta", "worker": "cyan", "api": "green"}


def without_controls(text: str) -> str:
    """``text`` without escape sequences and control characters, save tab and line feed."""
    return _CONTROL.sub("", text)


class Meter(Protocol):
    """How far a long piece of work is."""

    def at(self, done_bytes: int) -> None: ...


class Tally(Protocol):
    """How many of a known number have ended, and how."""

    def ended(self, *, well: bool, count: int = 1) -> None: ...


class Count(Protocol):
    """How many of a known number are done."""

    def one_more(self) -> None: ...


class Terminal:
    """All that a command says to the person who started it."""

    def __init__(self, *, stderr: bool = False) -> None:
        """``stderr``: for a command whose output may be on stdout."""
        self._console = Console(highlight=False, soft_wrap=True, stderr=stderr)

    @property
    def interactive(self) -> bool:
        return self._console.is_terminal

    def line(self, text: str, style: str = "") -> None:
        """One line of ours."""
        if self.interactive:
            self._console.print(Text(text, style=style))
        else:
            print(without_controls(text), file=self._console.file, flush=True)

    def log(self, source: str, line: str) -> None:
        """One line of a server process, marked with who said it."""
        clean = without_controls(line)
        if self.interactive:
            prefix = Text(f"{source:<6} │ ", style=_STYLES.get(source, "dim"))
            self._console.print(prefix + Text(clean))
        else:
            print(f"{source:<6} | {clean}", file=self._console.file, flush=True)

    def show(self, rich_form: RenderableType, plain_form: str) -> None:
        """A block in the form that fits: drawn for a person, plain lines for a file."""
        if self.interactive:
            self._console.print(rich_form)
        else:
            print(without_controls(plain_form), file=self._console.file, flush=True)

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """A spinner with ``text`` while the block runs; without a terminal one line at its beginning."""
        if not self.interactive:
            self.line(text)
            yield
            return
        with self._console.status(Text(text)):
            yield

    @contextmanager
    def download(self, text: str, total_bytes: int) -> Iterator[Meter]:
        """A progress bar while the block runs; without a terminal a line per quarter."""
        if not self.interactive:
            yield _Quarters(self, text, total_bytes)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=self._console, transient=True) as progress:
            yield _Bar(progress, text, total_bytes)

    @contextmanager
    def counting(self, text: str, total: int) -> Iterator[Count]:
        """A progress bar over ``total`` things while the block runs; nothing without a terminal."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # Redrawn rarely: it must not take time from what is being measured.
        with Progress(
            *columns, console=self._console, transient=True, refresh_per_second=2, disable=not self.interactive
        ) as progress:
            yield _Count(progress, progress.add_task(text, total=total))

    @contextmanager
    def tallying(self, text: str, total: int, done: int, failed: int = 0) -> Iterator[Tally]:
        """A progress bar with rate, remaining time and failures over ``total`` things of which ``done`` ended earlier.
        ``failed``: so many of those, where they are to be counted.

        Without a terminal a line per tenth.
        """
        if not self.interactive:
            yield _Tenths(self, text, total, done, failed)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[failed]} failed", style="dim"),
        )
        with Progress(*columns, console=self._console, refresh_per_second=4, speed_estimate_period=30.0) as progress:
            task = progress.add_task(text, total=total, completed=done, failed=failed)
            yield _LiveTally(progress, task, failed)


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s", style="progress.data.speed")


class _LiveTally:
    def __init__(self, progress: Progress, task: TaskID, failed: int) -> None:
        self._progress, self._task, self._failed = progress, task, failed

    def ended(self, *, well: bool, count: int = 1) -> None:
        self._failed += 0 if well else count
        self._progress.update(self._task, advance=count, failed=self._failed)


class _Tenths:
    def __init__(self, terminal: "Terminal", text: str, total: int, done: int, failed: int) -> None:
        self._terminal, self._text, self._total, self._done = terminal, text, total, done
        self._before, self._failed, self._begun_s = done, failed, mono_s()

    def ended(self, *, well: bool, count: int = 1) -> None:
        self._failed += 0 if well else count
        earlier, self._done = self._done, self._done + count
        if 10 * self._done // self._total > 10 * earlier // self._total:
            rate = (self._done - self._before) / max(mono_s() - self._begun_s, 1e-9)
            left_s = (self._total - self._done) / rate
            self._terminal.line(
                f"{self._text}: {self._done:,} of {self._total:,}, {self._failed:,} failed, {rate:.1f}/s, {left_s:.0f} s left"
            )


class _Count:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def one_more(self) -> None:
        self._progress.advance(self._task)


class _Bar:
    def __init__(self, progress: Progress, text: str, total_bytes: int) -> None:
        self._progress = progress
        self._task = progress.add_task(text, total=total_bytes)

    def at(self, done_bytes: int) -> None:
        self._progress.update(self._task, completed=done_bytes)


class _Quarters:
    def __init__(self, terminal: Terminal, text: str, total_bytes: int) -> None:
        self._terminal, self._text, self._total_bytes = terminal, text, total_bytes
        self._said = 0
        terminal.line(f"{text} ({total_bytes >> 20} MiB)")

    def at(self, done_bytes: int) -> None:
        quarters = min(4 * done_bytes // self._total_bytes, 4)
        if quarters > self._said:
            self._said = quarters
            self._terminal.line(f"{self._text}: {25 * quarters} %")
