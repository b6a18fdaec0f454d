"""``headrace top``: what the fleet is doing, in the terminal, renewed every second."""

import contextlib
import select
import sys
import termios
import threading
import tty
from collections.abc import Iterator

from rich.console import Console
from rich.live import Live
from rich.text import Text

from headrace_cli.errors import CliError
from headrace_cli.top.feed import Feed, RefusedError, Snapshot
from headrace_cli.top.screen import draw

_LOOK_AGAIN_S = 0.25
_RETRY_S = 2.0
_WIDTH_OF_FILES = 140
_OTHER_LINES = 14
"""Of the screen, besides those of recent requests; the least that remain for these are 3."""


def once(feed: Feed) -> None:
    """Print one picture. Raises CliError when there is none."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH_OF_FILES
    with contextlib.closing(feed.snapshots()) as snapshots:
        snapshot = next(snapshots, None)
    if snapshot is None:
        raise CliError(f"{feed.address} is about to stop")
    console.print(draw(snapshot))


def follow(feed: Feed) -> None:
    """Until q is pressed. Raises CliError when the node cannot be reached at first, or refuses."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CliError("top needs a terminal; --once prints one picture")
    latest = _Latest(feed)
    latest.start()
    console = Console(highlight=False)
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        while not pressed(_LOOK_AGAIN_S):
            if latest.refusal is not None:
                raise latest.refusal
            if latest.snapshot is None:
                live.update(Text(latest.problem or f"connecting to {feed.address}; q leaves"), refresh=True)
            else:
                lines = sum(len(model["workers"]) + len(model["lanes"]) for model in latest.snapshot["models"])
                most = max(console.height - _OTHER_LINES - lines, 3)
                live.update(draw(latest.snapshot, most, latest.problem), refresh=True)


class _Latest:
    """The newest picture, fetched in a thread that ends with the process; comes back after a break."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.snapshot: Snapshot | None = None
        self.problem = ""
        self.refusal: CliError | None = None

    def start(self) -> None:
        threading.Thread(target=self._run, name="top-feed", daemon=True).start()

    def _run(self) -> None:
        while self.refusal is None:
            try:
                for snapshot in self._feed.snapshots():
                    self.snapshot, self.problem = snapshot, ""
                self.problem = "the node has stopped, trying again"
            except RefusedError as error:
                self.refusal = error
            except CliError as error:
                if self.snapshot is None:
                    self.refusal = error
                self.problem = "no connection, trying again"
            threading.Event().wait(_RETRY_S)


class _Pressed:
    def __call__(self, within_s: float) -> bool:
        """Whether q, or Ctrl-C, was pressed within that time."""
        ready, _, _ = select.select([sys.stdin], [], [], within_s)
        return bool(ready) and sys.stdin.read(1) in ("q", "Q", "\x03", "")


@contextlib.contextmanager
def _keys() -> Iterator[_Pressed]:
    """Keys without waiting for Enter, while the block runs."""
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield _Pressed()
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
