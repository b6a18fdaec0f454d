"""Supervisor: server processes that are kept alive while wanted, and surely gone afterwards."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from headrace_cli.errors import EXIT_CONFIGURATION, EXIT_FAILURE, CliError
from headrace_cli.orphans import tied
from headrace_shared.clock import mono_s

_MAX_LINE_BYTES = 64 * 1024
_UNSETTLED_STOP_S = 3.0
"""A server that is still loading has nothing to finish."""

LogLine = Callable[[str, str], None]
"""Gets a process's name and one line that it wrote (or that is said about it)."""


@dataclass(frozen=True)
class ProcessSpec:
    """What to run. ``stop_timeout_s``: time between SIGTERM and SIGKILL when it is to stop; ``on_end``: called
    whenever it has ended, for what it could not put in order itself."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    stop_timeout_s: float = 40.0
    on_end: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class RestartPolicy:
    """Crashes in a row double the delay before the next start; a run of ``healthy_s`` forgets them.

    Until the supervisor is told that everything came up once, ``start_attempts`` crashes in a row end it all.
    """

    first_delay_s: float = 0.5
    max_delay_s: float = 15.0
    healthy_s: float = 30.0
    start_attempts: int = 3

    def delay_s(self, crashes: int) -> float:
        return float(min(self.first_delay_s * 2 ** min(crashes - 1, 30), self.max_delay_s))


@dataclass
class _Child:
    spec: ProcessSpec
    process: asyncio.subprocess.Process | None = None
    keeper: asyncio.Task[None] | None = None
    wanted: bool = True
    last_line: str = "it said nothing"

    @property
    def last_words(self) -> str:
        return self.last_line.removeprefix(f"headrace {self.spec.name}: error: ")

    def signal_group(self, number: signal.Signals) -> None:
        """Reaches what the child started as well, and does nothing when all of them are gone."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)


class Supervisor:
    """Runs each process in a session of its own, so that a Ctrl-C in the terminal reaches the supervisor alone."""

    def __init__(self, log: LogLine, policy: RestartPolicy | None = None) -> None:
        self._log = log
        self._policy = policy or RestartPolicy()
        self._stages: list[list[_Child]] = []
        self._failure: asyncio.Future[CliError] = asyncio.get_running_loop().create_future()
        self._settled = False

    def start(self, *specs: ProcessSpec) -> None:
        """Start and keep them running. What was started first is stopped last, and at once what was started at once."""
        children = [_Child(spec) for spec in specs]
        for child in children:
            child.keeper = asyncio.create_task(self._keep(child))
        self._stages.append(children)

    def settle(self) -> None:
        """Everything came up once: from now on a crash is never a reason to give up."""
        self._settled = True

    async def failure(self) -> CliError:
        """Wait until a process cannot be kept running, and say why."""
        return await asyncio.shield(self._failure)

    def pids(self) -> dict[str, int]:
        """Process ids by name, of those that run at this moment."""
        return {c.spec.name: c.process.pid for c in self._children() if c.process and c.process.returncode is None}

    async def stop(self) -> None:
        """Stop one after the other, last started first: SIGTERM, and SIGKILL for what outlives its time-out."""
        for child in self._children():
            child.wanted = False
        for stage in reversed(self._stages):
            await asyncio.gather(*(self._stop_one(child) for child in stage))

    def kill(self) -> None:
        """End all processes at once; ``stop`` then returns without waiting."""
        for child in self._children():
            child.wanted = False
            child.signal_group(signal.SIGKILL)

    def _children(self) -> Iterator[_Child]:
        return chain.from_iterable(self._stages)

    async def _stop_one(self, child: _Child) -> None:
        assert child.keeper is not None  # noqa: S101 - start() made it
        process = child.process
        if process is not None and process.returncode is None:
            timeout_s = child.spec.stop_timeout_s if self._settled else _UNSETTLED_STOP_S
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            _, pending = await asyncio.wait([child.keeper], timeout=timeout_s)
            if pending:
                self._log(child.spec.name, f"did not stop within {timeout_s:g} s, killing it")
        child.signal_group(signal.SIGKILL)
        if process is None or process.returncode is not None:
            # It waits for its next start, which must not happen any more.
            child.keeper.cancel()
        await asyncio.wait([child.keeper])

    async def _keep(self, child: _Child) -> None:
        crashes = 0
        while True:
            started_s = mono_s()
            try:
                status = await self._run_once(child)
            except OSError as error:
                self._give_up(child, f"cannot be started: {error.strerror or error}")
                return
            if not child.wanted:
                return
            crashes = 1 if mono_s() - started_s >= self._policy.healthy_s else crashes + 1
            if status == EXIT_CONFIGURATION:
                self._give_up(child, child.last_words, EXIT_CONFIGURATION)
                return
            if crashes >= self._policy.start_attempts and not self._settled:
                self._give_up(child, f"failed {crashes} times at its start ({_ending(status)}): {child.last_words}")
                return
            delay_s = self._policy.delay_s(crashes)
            self._log(child.spec.name, f"{_ending(status)}; starting it again in {delay_s:g} s")
            await asyncio.sleep(delay_s)

    async def _run_once(self, child: _Child) -> int:
        """Start the process, hand on its lines, and return its exit status (negative: the signal that ended it)."""
        child.process = None
        read_end, write_end = os.pipe()
        lines = _LineReader(read_end, lambda line: self._said(child, line))
        try:
            child.process = await asyncio.create_subprocess_exec(
                *tied(child.spec.argv),
                env=dict(child.spec.env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                start_new_session=True,
            )
        finally:
            os.close(write_end)
            if child.process is None:
                lines.close()
        try:
            return await child.process.wait()
        finally:
            # What a crashed process started must not go on beside its successor.
            child.signal_group(signal.SIGKILL)
            lines.close()
            child.spec.on_end()

    def _said(self, child: _Child, line: str) -> None:
        if line.strip():
            child.last_line = line.strip()
        self._log(child.spec.name, line)

    def _give_up(self, child: _Child, reason: str, exit_code: int = EXIT_FAILURE) -> None:
        if not self._failure.done():
            self._failure.set_result(CliError(f"{child.spec.name}: {reason}", exit_code=exit_code))


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


class _LineReader:
    """Splits what arrives on a pipe into lines.

    A pipe of our own instead of asyncio's: a process that its child left behind may hold the pipe open for ever, and
    waiting for the child must not wait for that.
    """

    def __init__(self, read_end: int, on_line: Callable[[str], None]) -> None:
        self._fd, self._on_line, self._rest = read_end, on_line, b""
        os.set_blocking(read_end, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(read_end, self._read)

    def close(self) -> None:
        """Hand on what has arrived, and let go of the pipe."""
        while self._read():
            pass
        if self._rest:
            self._emit(self._rest)
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _read(self) -> bool:
        try:
            data = os.read(self._fd, _MAX_LINE_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._fd)
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._emit(line)
        if len(self._rest) > _MAX_LINE_BYTES:
            self._emit(self._rest)
            self._rest = b""
        return True

    def _emit(self, line: bytes) -> None:
        # Of a progress bar that redraws itself, the last state.
        self._on_line(line.decode("utf-8", "replace").rstrip("\r").rsplit("\r", 1)[-1])
