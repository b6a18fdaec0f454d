"""Both ends of a queue on a real server."""

from collections.abc import AsyncIterator

import pytest
from queue_traffic import QUEUE, MakeWorker
from redis.asyncio import Redis

from headrace_shared.queue.claims import WorkerQueue
from headrace_shared.queue.client import connect
from headrace_shared.queue.hub import StreamHub
from headrace_shared.queue.requests import QueueLimits, RequestQueue
from headrace_shared.settings import RedisSettings


@pytest.fixture
def settings(valkey_url: str) -> RedisSettings:
    return RedisSettings(url=valkey_url)


@pytest.fixture
async def redis(settings: RedisSettings) -> AsyncIterator[Redis]:
    client = connect(settings)
    yield client
    await client.aclose()


@pytest.fixture
def requests(redis: Redis) -> RequestQueue:
    return RequestQueue(redis, QueueLimits())


@pytest.fixture
def make_worker(redis: Redis) -> MakeWorker:
    """``make_worker("w1", lease_ms=200)``; the lease is long unless a test is about leases."""

    def make(worker_id: str = "w1", *, lease_ms: int = 60_000, queue: str = QUEUE) -> WorkerQueue:
        return WorkerQueue(redis, queue, worker_id, lease_ms)

    return make


@pytest.fixture
def worker(make_worker: MakeWorker) -> WorkerQueue:
    return make_worker()


@pytest.fixture
async def hub(redis: Redis) -> AsyncIterator[StreamHub]:
    hub = StreamHub(redis)
    await hub.start()
    yield hub
    await hub.close()
