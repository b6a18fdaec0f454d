"""Pub/sub that loses, repeats and reorders messages in every mixture: the reader gets the log."""

import asyncio
from random import Random

import pytest
from queue_traffic import FINISHED, QUEUE, ending, finish, make_job, positions, token
from redis.asyncio import Redis

from headrace_shared.protocol.codec import encode_frame
from headrace_shared.protocol.event import Event
from headrace_shared.queue import keys
from headrace_shared.queue.claims import Claim, WorkerQueue
from headrace_shared.queue.hub import StreamHub
from headrace_shared.queue.requests import RequestQueue
from headrace_shared.queue.stream import ResultStream

STREAMS, FRAMES = 20, 40


async def read(stream: ResultStream) -> list[Event]:
    return [event async for frame in stream for event in frame]


class Channel:
    """Writes frames into the logs, and tells of them badly."""

    def __init__(self, redis: Redis, random: Random) -> None:
        self._redis = redis
        self._random = random

    async def say(self, request_id: str) -> None:
        seq = 0
        while seq < FRAMES:
            first, seq = seq + 1, min(seq + self._random.randint(1, 5), FRAMES)
            for number in range(first, seq + 1):
                frame = encode_frame([token(number - 1)])
                await self._redis.xadd(keys.token_log(QUEUE, request_id), {"d": frame}, id=f"{number}-0")
                await self._redis.hset(keys.request(QUEUE, request_id), "seq", str(number))  # type: ignore[misc]
            for number in self._told(seq):
                message = f"{number}|".encode() + encode_frame([token(number - 1)])
                await self._redis.execute_command("SPUBLISH", keys.token_channel(QUEUE, request_id), message)
            await asyncio.sleep(self._random.choice([0, 0, 0.005]))

    def _told(self, last: int) -> list[int]:
        """Some of the newest frames, in any order, and some of the older ones again."""
        recent = range(max(last - 7, 1), last + 1)
        return self._random.choices(recent, k=self._random.randint(0, 6))


@pytest.mark.parametrize("seed", range(5))
async def test_a_reader_gets_every_frame_once_and_in_order_whatever_the_channel_does(
    redis: Redis, requests: RequestQueue, worker: WorkerQueue, hub: StreamHub, seed: int
) -> None:
    random = Random(seed)
    streams = {f"r{n}": await hub.open(QUEUE, f"r{n}") for n in range(STREAMS)}
    for request_id in streams:
        await requests.enqueue(make_job(request_id))
    claims: dict[str, Claim] = {claim.request_id: claim for claim in await worker.claim(STREAMS, 10**9)}
    readers = [asyncio.create_task(read(stream)) for stream in streams.values()]
    await asyncio.gather(*(Channel(redis, Random(random.random())).say(request_id) for request_id in streams))
    for claim in claims.values():
        await finish(worker, claim, FRAMES + 1)
    async with asyncio.timeout(20):
        for events in await asyncio.gather(*readers):
            assert positions(events) == list(range(FRAMES))
            assert ending(events) == FINISHED
