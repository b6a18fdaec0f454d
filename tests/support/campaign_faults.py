"""What a fault campaign does to a running system: it kills, pauses and replaces its real processes."""

import asyncio
import contextlib
import os
import signal
from collections import Counter
from random import Random

import redis
from fleet import Fleet
from worker_process import WorkerProcess

from headrace_cli.embedded_redis import EmbeddedRedis

WORKERS, NODES = 4, 3
STEP_MS = 20
KILLS = frozenset({"kill worker", "kill API node", "kill Redis"})
_WEIGHTS = {
    "kill worker": 12,
    "kill API node": 4,
    "kill Redis": 2,
    "pause worker": 4,
    "pause API node": 1,
    "pause Redis": 1,
    "hand worker over": 2,
    "cut connections": 2,
    "flush scripts": 2,
}


class Faults:
    """Does one thing after another, drawn from ``random``, and counts each."""

    def __init__(self, fleet: Fleet, valkey: EmbeddedRedis, random: Random) -> None:
        self._fleet = fleet
        self._valkey = valkey
        self._random = random
        self._workers = [self._worker() for _ in range(WORKERS)]
        self.nodes = [fleet.api() for _ in range(NODES)]
        self.done: Counter[str] = Counter()
        for node in self.nodes:
            node.wait_until_ready(workers=WORKERS)

    @property
    def kills(self) -> int:
        return sum(self.done[name] for name in KILLS)

    async def one(self) -> None:
        """Returns when what was killed has been replaced by something that starts."""
        [name] = self._random.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
        await getattr(self, "_" + name.replace(" ", "_"))()
        self.done[name] += 1

    def _worker(self) -> WorkerProcess:
        return self._fleet.worker(simulated_step_ms=STEP_MS)

    async def _kill_worker(self) -> None:
        index = self._random.randrange(WORKERS)
        await asyncio.to_thread(self._workers[index].kill)
        self._workers[index] = self._worker()

    async def _hand_worker_over(self) -> None:
        index = self._random.randrange(WORKERS)
        # One that is still starting has nothing to hand over, and ends as any program does.
        assert await asyncio.to_thread(self._workers[index].terminate) in (0, -signal.SIGTERM)
        self._workers[index] = self._worker()

    async def _kill_API_node(self) -> None:  # noqa: N802 - called by the fault's name
        index = self._random.randrange(NODES)
        old = self.nodes[index]
        old.process.kill()
        await asyncio.to_thread(old.process.wait)
        self.nodes[index] = new = self._fleet.api()
        await asyncio.to_thread(new.wait_until_ready)

    async def _kill_Redis(self) -> None:  # noqa: N802 - called by the fault's name
        await asyncio.to_thread(self._valkey.kill)
        await asyncio.sleep(self._random.uniform(0.0, 0.5))
        await asyncio.to_thread(self._valkey.start)

    async def _pause_worker(self) -> None:
        """Longer than its lease or not: it may come back as a zombie."""
        await self._pause(self._random.choice(self._workers).process.pid, 2.0)

    async def _pause_API_node(self) -> None:  # noqa: N802 - called by the fault's name
        await self._pause(self._random.choice(self.nodes).process.pid, 1.0)

    async def _pause_Redis(self) -> None:  # noqa: N802 - called by the fault's name
        assert self._valkey.pid is not None
        await self._pause(self._valkey.pid, 1.0)

    async def _cut_connections(self) -> None:
        kind = self._random.choice(("normal", "pubsub"))
        await asyncio.to_thread(self._command, "CLIENT", "KILL", "TYPE", kind)

    async def _flush_scripts(self) -> None:
        await asyncio.to_thread(self._command, "SCRIPT", "FLUSH")

    async def _pause(self, pid: int, longest_s: float) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(self._random.uniform(0.1, longest_s))
            finally:
                os.kill(pid, signal.SIGCONT)

    def _command(self, *words: str) -> None:
        with redis.Redis.from_url(self._valkey.url, socket_timeout=5) as client:
            client.execute_command(*words)
