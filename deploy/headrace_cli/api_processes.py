"""The API processes of one port: how they are started, and the folder in which they add up what they count."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from headrace_cli import servers
from headrace_cli.errors import EXIT_CONFIGURATION, CliError
from headrace_cli.foreground import Foreground
from headrace_cli.processes import ProcessSpec, Supervisor
from headrace_cli.terminal import Terminal

COUNT = "HEADRACE_API_SERVER_COUNT"
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
SHARE = "HEADRACE_METRICS_PROCESS"
STOP_MARGIN_S = 10.0
"""How much longer than its own settings allow a server may take to stop."""
_POLL_S = 0.1
_MOST = 256
"""As the setting has it; more must not even be started to be told so."""


def count_of(variables: Mapping[str, str]) -> int:
    """How many are wanted. Raises CliError for what is no such number, and where there can only be one."""
    text = variables.get(COUNT, "1")
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= _MOST):
        raise CliError(
            f"--api-server-count is to be a number from 1 to {_MOST}, not {text}", exit_code=EXIT_CONFIGURATION
        )
    if int(text) > 1 and "HEADRACE_API_UDS" in variables:
        raise CliError(
            "--uds: a unix socket is for one process; leave it out, or --api-server-count", exit_code=EXIT_CONFIGURATION
        )
    return int(text)


class ApiProcesses:
    """One or several. The kernel spreads connections among those that listen; one that has crashed gets none.

    Each has a share of the folder that is its own for good: whoever is started in the place of one that crashed counts
    on where that one was.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        self._count = count_of(variables)
        self._folder: Path | None = None
        self._made = False

    def specs(self) -> list[ProcessSpec]:
        """To be started together."""
        stop_timeout_s = servers.stop_s(servers.API, self._variables) + STOP_MARGIN_S
        argv = servers.command(servers.API)
        if self._count == 1:
            return [ProcessSpec("api", argv, self._variables, stop_timeout_s)]
        self._folder = folder = self._empty_folder()
        return [
            ProcessSpec(
                name,
                argv,
                {**self._variables, FOLDER: str(folder), SHARE: name},
                stop_timeout_s,
                partial(_forget_levels, folder, name),
            )
            for name in (f"api-{number}" for number in range(1, self._count + 1))
        ]

    def close(self) -> None:
        """When all have ended."""
        if self._folder is not None and self._made:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _empty_folder(self) -> Path:
        if FOLDER not in self._variables:
            self._made = True
            return Path(tempfile.mkdtemp(prefix="headrace-api-"))
        folder = Path(self._variables[FOLDER])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for left_over in folder.glob("*.db"):
                left_over.unlink()
        except OSError as error:
            reason = f"{FOLDER}: {folder}: {error.strerror or error}"
            raise CliError(reason, exit_code=EXIT_CONFIGURATION) from None
        return folder


def _forget_levels(folder: Path, name: str) -> None:
    """What a process had open is closed with it; what it counted stays counted."""
    for level in folder.glob(f"gauge_live*_{name}.db"):
        level.unlink(missing_ok=True)


async def serve(variables: Mapping[str, str], host: str, port: int, terminal: Terminal) -> int:
    """Run several until a signal comes; the exit status. Raises CliError when they cannot be kept running."""
    supervisor = Supervisor(terminal.log)
    processes = ApiProcesses(variables)

    async def serving() -> None:
        supervisor.start(*processes.specs())
        await _until_somebody_listens(host or "localhost", port)
        supervisor.settle()
        await asyncio.Event().wait()

    try:
        return await Foreground(supervisor).run(serving(), supervisor.stop)
    finally:
        processes.close()


async def _until_somebody_listens(host: str, port: int) -> None:
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            return
        await asyncio.sleep(_POLL_S)
