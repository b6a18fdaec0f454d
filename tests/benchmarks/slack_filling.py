"""What a saturating batch costs those who chat beside it, and what they cost the batch.

    python tests/benchmarks/slack_filling.py [--seconds 40] [--rounds 3] [--slack 1.5] [--every 2.5]

Valkey, an API node and a worker with the demo model. Users come one by one over HTTP, the same ones at the same moments
with and without a batch beside them, in turn; the batch's requests wait in the queue. Then the batch runs with nobody
beside it, as background requests and as any others, in turn. Prints times to the first token, gaps between tokens, and
tokens per second; gates nothing.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import mean, median

import httpx
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from fleet import fleet_on
from queue_client import QueueClient, queue_client
from timed_stream import TimedAnswer, TimedStream
from worker_process import card_of_fleet

from headrace_cli import demo_model
from headrace_cli.embedded_redis import EmbeddedRedis
from headrace_cli.terminal import Terminal
from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import SamplingSpec, StoppingSpec

PROMPT, ANSWER = 128, 48
BACKLOG = 300
_numbers = count(1)


@dataclass
class Load:
    """What the users of one kind of phase met."""

    answers: list[TimedAnswer] = field(default_factory=list)
    batch_tokens_per_s: list[float] = field(default_factory=list)

    @property
    def firsts_ms(self) -> list[float]:
        return sorted(answer.first_s * 1000 for answer in self.answers)

    @property
    def gaps_ms(self) -> list[float]:
        return sorted(gap * 1000 for answer in self.answers for gap in answer.gaps_s)


def a_prompt() -> list[int]:
    """One that nobody has sent before."""
    draw = random.Random(next(_numbers))
    return [draw.randrange(100, 40_000) for _ in range(PROMPT)]


class Batch:
    """Requests in the queue: as many as the worker can ever get through while it is looked at."""

    def __init__(self, client: QueueClient, queue: str, metrics_url: str) -> None:
        self._client, self._queue, self._metrics_url = client, queue, metrics_url

    @asynccontextmanager
    async def waiting(self, *, background: bool) -> AsyncIterator[None]:
        jobs = [self._job(background) for _ in range(BACKLOG)]
        for job in jobs:
            await self._client.queue.enqueue(job)
        try:
            yield
        finally:
            for job in jobs:
                await self._client.queue.cancel(self._queue, job.header.request_id, "measured")
            await asyncio.sleep(1)

    async def generated(self) -> float:
        """Tokens that the worker has generated so far."""
        async with httpx.AsyncClient() as http:
            text = (await http.get(self._metrics_url)).text
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith("vllm:generation_tokens_total")
        )

    def _job(self, background: bool) -> GenerateJob:
        name = f"batch-{next(_numbers)}"
        header = JobHeader(name, self._queue, 50, "batch", PROMPT + ANSWER, background=background, detached=True)
        stopping = StoppingSpec(max_tokens=ANSWER, ignore_eos=True)
        return GenerateJob(header, pack_ids(a_prompt()), sampling=SamplingSpec(temperature=0), stopping=stopping)


async def users(port: int, model: str, seconds: float, every_s: float) -> list[TimedAnswer]:
    """Come at the same moments each time."""
    draw, streams = random.Random(1), []
    begin = time.monotonic()
    at_s = 0.0
    while at_s < seconds:
        await asyncio.sleep(max(0.0, begin + at_s - time.monotonic()))
        streams.append(await TimedStream.open(port, 1, ANSWER, model, a_prompt()))
        at_s += every_s * draw.uniform(0.4, 1.6)
    return [await stream.answer() for stream in streams]


async def alone(batch: Batch, background: bool, seconds: float) -> float:
    """The batch's tokens per second."""
    async with batch.waiting(background=background):
        await asyncio.sleep(3)
        before, begin = await batch.generated(), time.monotonic()
        await asyncio.sleep(seconds)
        return (await batch.generated() - before) / (time.monotonic() - begin)


async def beside(batch: Batch, port: int, model: str, given: argparse.Namespace) -> tuple[list[TimedAnswer], float]:
    async with batch.waiting(background=True):
        await asyncio.sleep(3)
        before, begin = await batch.generated(), time.monotonic()
        answers = await users(port, model, given.seconds, given.every)
        tokens = await batch.generated() - before - ANSWER * len(answers)
        return answers, tokens / (time.monotonic() - begin)


def show(title: str, quiet: list[float], busy: list[float]) -> None:
    figures = [
        ("mean", mean(quiet), mean(busy)),
        ("median", median(quiet), median(busy)),
        ("p95", quiet[int(len(quiet) * 0.95)], busy[int(len(busy) * 0.95)]),
    ]
    told = ", ".join(f"{name} {q:.1f} -> {b:.1f} ms ({b / q:.2f}x)" for name, q, b in figures)
    print(f"{title}: {told}; {len(quiet)} and {len(busy)} values", flush=True)


async def measure(redis_url: str, port: int, given: argparse.Namespace) -> None:
    async with queue_client(redis_url) as client:
        card = await card_of_fleet(client.presence, 1)
        [model] = (await client.presence.fleet()).models
        batch = Batch(client, card.queue, model.workers[0].metrics_url)
        # The worker learns what its steps cost.
        await users(port, card.name, 8, given.every)
        await alone(batch, True, 5)
        quiet, busy = Load(), Load()
        flagged: list[float] = []
        plain: list[float] = []
        for _ in range(given.rounds):
            quiet.answers += await users(port, card.name, given.seconds, given.every)
            answers, rate = await beside(batch, port, card.name, given)
            busy.answers += answers
            busy.batch_tokens_per_s.append(rate)
            flagged.append(await alone(batch, True, given.seconds / 2))
            plain.append(await alone(batch, False, given.seconds / 2))
    show("time to first token", quiet.firsts_ms, busy.firsts_ms)
    show("gap between tokens", quiet.gaps_ms, busy.gaps_ms)
    print(
        f"batch: {mean(flagged):.1f} tokens/s with nobody beside it, {mean(plain):.1f} as requests like any others "
        f"({mean(flagged) / mean(plain):.3f}x), {mean(busy.batch_tokens_per_s):.1f} beside the users"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slack", type=float, default=1.5)
    parser.add_argument("--every", type=float, default=2.5, help="seconds between two users")
    given = parser.parse_args()
    model = demo_model.ensure(Terminal())
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedRedis(Path(folder) / "valkey") as server,
        fleet_on(server.url) as fleet,
    ):
        fleet.worker(
            model=model, engine="torch", kv_cache_memory="1GiB", lease_ms=3000, interactive_itl_slack=given.slack
        )
        api = fleet.api()
        api.wait_until_ready(timeout_s=120)
        uvloop.run(measure(server.url, api.port, given))


if __name__ == "__main__":
    main()
