"""Redis comes back without its last moments, while workers and clients remember them: nobody sees it."""

import asyncio
import signal
from collections.abc import Awaitable
from typing import Any, cast

from eventually import eventually
from queue_client import QueueClient, answers, generate_job, queue_client
from redis.asyncio import Redis
from worker_process import card_of_fleet, workers

from headrace_shared.protocol.event import Event
from headrace_shared.protocol.job import GenerateJob

_KEEP = """
local held = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  held[#held + 1] = {key, math.max(redis.call('PTTL', key), 0), redis.call('DUMP', key)}
end
return held
"""


class Memory:
    """All that a server holds at one moment: what a restart brings back when later writes never reached the disk."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._held: list[tuple[bytes, int, bytes]] = []

    async def keep(self) -> None:
        self._held = await cast(Awaitable[Any], self._redis.eval(_KEEP, 0))

    async def bring_back(self) -> None:
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.flushall()
            for key, ttl_ms, dump in self._held:
                pipe.restore(key, ttl_ms, dump)
            await pipe.execute()


def _jobs(queue: str, prefix: str) -> list[GenerateJob]:
    kinds: list[dict[str, object]] = [{}, {"n": 3}, {"stop": ("ama", "ete"), "min_tokens": 4}, {"logprobs": 2}]
    return [generate_job(queue, f"{prefix}{i}", seed=i, max_tokens=6, **kinds[i % len(kinds)]) for i in range(16)]


async def _run_all(client: QueueClient, jobs: list[GenerateJob]) -> list[list[Event]]:
    async with asyncio.timeout(60):
        return list(await asyncio.gather(*(client.run(job) for job in jobs)))


async def test_a_worker_whose_claims_were_forgotten_takes_its_requests_again(valkey_url: str) -> None:
    # Steps longer than the pause between two claims: it claims before it hears that it owns nothing any more.
    with workers(valkey_url, 1, simulated_step_ms=400) as [worker]:
        async with queue_client(valkey_url) as client, Redis.from_url(valkey_url) as redis:
            card = await card_of_fleet(client.presence, 1)
            undisturbed = await _run_all(client, _jobs(card.queue, "calm-"))
            memory = Memory(redis)
            worker.process.send_signal(signal.SIGSTOP)
            disturbed = asyncio.create_task(_run_all(client, _jobs(card.queue, "rough-")))
            await _until_all(redis, b"Q")
            await memory.keep()
            worker.process.send_signal(signal.SIGCONT)
            await _until_all(redis, b"R")
            await asyncio.sleep(0.6)
            await memory.bring_back()
            results = await disturbed
    assert [answers(events) for events in results] == [answers(events) for events in undisturbed]


async def _until_all(redis: Redis, state: bytes) -> None:
    async def are() -> bool:
        keys = await redis.keys("*:req:rough-*")
        return [await redis.hget(key, "state") for key in keys] == [state] * 16

    await eventually(are)
