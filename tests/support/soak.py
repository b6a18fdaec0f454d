"""Users who come and go for minutes: does any process, or Redis, grow?

    python tests/support/soak.py --minutes 10

Needs nothing that runs: it starts a Valkey with an append-only file, 2 workers with the simulated engine and 2 API
nodes. A fifth of the users leave in the middle of their answer. Exits with 1 when an answer differs from the first one
of its kind, or when memory grew by more than a tenth: that of a worker or an API node between the second and the last
quarter, that of all keys in Redis from before the users came to after the last answer's lifetime. What Redis has in
between follows the pace, and the pace what else the machine has to do.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from random import Random

import redis
from campaign_users import KINDS, MODEL, Answer, Tally, Users
from fleet import fleet_on
from rich.console import Console
from rich.table import Table

from headrace_cli.embedded_redis import EmbeddedRedis
from headrace_shared.clock import mono_s

_CASES = 6 * len(KINDS)
_SAMPLE_S = 2.0
_REPLAY_TTL_S = 20
_GROWTH = 1.1
_PACE = "answers lately", "Redis keys", "Redis, MiB"
"""Told, not judged: they rise and fall with the pace."""
_KEYS_OF_THE_FLEET = 60
"""Cards, tokenizer, leases, counters, and which worker has which of the prompts cached."""
Samples = dict[str, list[float]]


@dataclass(frozen=True)
class Rest:
    """What Redis has when it keeps no answer."""

    keys: int
    keys_bytes: int
    mib: float
    """With what Redis needs for itself."""

    def __str__(self) -> str:
        return f"{self.keys} keys of {self.keys_bytes} bytes, {self.mib:.2f} MiB in use"


async def _user(users: Users, random: Random, expected: list[Answer], end_s: float) -> None:
    while mono_s() < end_s:
        case = random.randrange(_CASES)
        if random.random() < 0.2:
            await _leave_early(users, case)
        else:
            users.tally.compare(case, await users.ask(case), expected[case])


async def _leave_early(users: Users, case: int) -> None:
    stream = await users.client().completions.create(model=MODEL, prompt=f"go {case}", max_tokens=200, stream=True)
    async with stream:
        async for _ in stream:
            return


async def _sample(samples: Samples, pids: dict[str, int], url: str, tally: Tally, end_s: float) -> None:
    """Redis keeps what was answered within the replay lifetime: how much is a matter of the pace."""
    lately: deque[tuple[float, int]] = deque()
    async with redis.asyncio.Redis.from_url(url) as client:
        while mono_s() < end_s:
            await asyncio.sleep(_SAMPLE_S)
            lately.append((mono_s(), tally.answers))
            while lately[-1][0] - lately[0][0] > _REPLAY_TTL_S:
                lately.popleft()
            for name, pid in pids.items():
                samples.setdefault(f"{name}, MiB", []).append(_resident_mib(pid))
            samples.setdefault(_PACE[0], []).append(lately[-1][1] - lately[0][1])
            samples.setdefault(_PACE[1], []).append(await client.dbsize())


async def _at_rest(url: str) -> Rest:
    """Once all answers' lifetimes are over."""
    await asyncio.sleep(_REPLAY_TTL_S + 2 * _SAMPLE_S)
    async with redis.asyncio.Redis.from_url(url) as client:
        sizes = [await client.memory_usage(key, samples=0) or 0 async for key in client.scan_iter()]
        return Rest(len(sizes), sum(sizes), (await client.info("memory"))["used_memory"] / 2**20)


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def run_soak(folder: Path, minutes: float, count: int) -> tuple[Tally, Samples, tuple[Rest, Rest]]:
    os.environ["HEADRACE_QUEUE_REPLAY_TTL_S"] = str(_REPLAY_TTL_S)
    with EmbeddedRedis(folder) as valkey, fleet_on(valkey.url) as fleet:
        # A small cache, so that its directory of what can be found again is full within minutes, and has to be level then.
        workers = [
            fleet.worker(simulated_step_ms=5, max_model_len=512, max_num_seqs=32, lease_ms=6000) for _ in range(2)
        ]
        nodes = [fleet.api() for _ in range(2)]
        for node in nodes:
            node.wait_until_ready(workers=2)
        assert valkey.pid is not None
        pids = {f"worker {n}": worker.process.pid for n, worker in enumerate(workers)}
        pids |= {f"API node {n}": node.process.pid for n, node in enumerate(nodes)} | {"Redis": valkey.pid}

        async def soak() -> tuple[Tally, Samples, tuple[Rest, Rest]]:
            samples: Samples = {}
            users = Users(nodes, Tally(), Random(1))
            try:
                expected = list(await asyncio.gather(*(users.ask(case) for case in range(_CASES))))
                before = await _at_rest(valkey.url)
                end_s = mono_s() + minutes * 60
                await asyncio.gather(
                    _sample(samples, pids, valkey.url, users.tally, end_s),
                    *(_user(users, Random(n), expected, end_s) for n in range(count)),
                )
            finally:
                await users.aclose()
            return users.tally, samples, (before, await _at_rest(valkey.url))

        return asyncio.run(soak())


def _quarters(values: list[float]) -> tuple[float, float]:
    """Medians of the second and of the last one: the first is for caches to fill."""
    size = max(len(values) // 4, 1)
    return statistics.median(values[size : 2 * size] or values), statistics.median(values[-size:])


def _show(tally: Tally, samples: Samples, rests: tuple[Rest, Rest], minutes: int, console: Console) -> bool:
    table = Table("", "second quarter", "last quarter", "by minute")
    table.title = f"{tally.answers} answers, {tally.faults} of them wrong"
    first, last = rests
    good = tally.faults == 0 and last.keys < _KEYS_OF_THE_FLEET and last.keys_bytes <= first.keys_bytes * _GROWTH
    for name, values in samples.items():
        before, after = _quarters(values)
        grew = name not in _PACE and after > before * _GROWTH
        good = good and not grew
        told = " ".join(f"{values[minute * len(values) // minutes]:.1f}" for minute in range(minutes))
        table.add_row(name, f"{before:.1f}", f"{after:.1f}" + (" grew" if grew else ""), told)
    console.print(table)
    console.print(f"Redis before the users came: {first}")
    console.print(f"Redis when all answers' lifetimes are over: {last}")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description="Run users for minutes, and see whether memory grows.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--users", type=int, default=24)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally, samples, rests = run_soak(Path(folder) / "valkey", asked.minutes, asked.users)
    return 0 if _show(tally, samples, rests, max(round(asked.minutes), 1), Console()) else 1


if __name__ == "__main__":
    sys.exit(main())
