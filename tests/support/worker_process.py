"""Real worker processes with the simulated engine, for tests."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headrace_shared.model_card import ModelCard
from headrace_shared.queue.presence import Presence

LEASE_MS = 600


class WorkerProcess:
    """``python -m headrace_worker`` on a Redis URL; ``program``: another module that runs one."""

    def __init__(self, url: str, program: str = "headrace_worker", **settings: object) -> None:
        asked = {"model": "simulated", "engine": "simulated", "lease_ms": LEASE_MS, "simulated_step_ms": 2, **settings}
        environment = {
            **os.environ,
            "HEADRACE_REDIS_URL": url,
            **{f"HEADRACE_WORKER_{name.upper()}": str(value) for name, value in asked.items()},
        }
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(Path(__file__).parent), *filter(None, [environment.get("PYTHONPATH")])]
        )
        self.process = subprocess.Popen([sys.executable, "-P", "-m", program], env=environment)

    def kill(self) -> None:
        """As a lost machine would: no last word."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """As an orchestrator would; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)


@contextmanager
def workers(url: str, count: int, **settings: Any) -> Iterator[list[WorkerProcess]]:
    """``count`` workers, killed at the end of the block if they still run."""
    started = [WorkerProcess(url, **settings) for _ in range(count)]
    try:
        yield started
    finally:
        for worker in started:
            worker.kill()


async def card_of_fleet(presence: Presence, workers_wanted: int) -> ModelCard:
    """Wait until that many workers of one model are alive; its card."""
    async with asyncio.timeout(20):
        while True:
            models = (await presence.fleet()).models
            if models and len(models[0].workers) >= workers_wanted:
                return models[0].card
            await asyncio.sleep(0.05)
