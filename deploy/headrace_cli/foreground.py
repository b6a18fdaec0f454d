"""Foreground: what a command does while its processes run, until a signal ends it."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from headrace_cli.errors import EXIT_INTERRUPTED
from headrace_cli.processes import Supervisor

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Foreground:
    """Made inside a running loop."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._stop_asked = asyncio.Event()
        self._hurry = False

    async def run(self, serving: Coroutine[Any, Any, None], stop: Callable[[], Awaitable[None]]) -> int:
        """Serve until a signal comes or something cannot be kept running; nothing that was started outlives this.

        Returns the exit status: 0 after a drain, 130 after a second Ctrl-C. Raises CliError for a failure.
        """
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            loop.add_signal_handler(number, self._on_stop_signal)
        tasks = [
            asyncio.create_task(serving),
            asyncio.create_task(self._fail_with_supervisor()),
            asyncio.create_task(self._stop_asked.wait()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await stop()
        for task in done:
            task.result()
        return EXIT_INTERRUPTED if self._hurry else 0

    async def _fail_with_supervisor(self) -> None:
        raise await self._supervisor.failure()

    def _on_stop_signal(self) -> None:
        if self._stop_asked.is_set():
            self._hurry = True
            self._supervisor.kill()
        self._stop_asked.set()
