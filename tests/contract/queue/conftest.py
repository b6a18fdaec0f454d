"""Both ends of a queue on a real server."""

import inspect
from collections.abc import AsyncIterator, Iterator

import pytest
from queue_traffic import QUEUE, MakeWorker
from redis.asyncio import Redis
from redis_servers import RedisCluster, running_cluster

from headrace_shared.queue.claims import WorkerQueue
from headrace_shared.queue.client import connect
from headrace_shared.queue.hub import StreamHub
from headrace_shared.queue.requests import QueueLimits, RequestQueue
from headrace_shared.settings import RedisSettings

_ON_A_CLUSTER_TOO = {
    "test_append",
    "test_batch_book",
    "test_cancel",
    "test_enqueue",
    "test_order",
    "test_recovery",
    "test_streams",
}
"""Modules whose tests run against one server and, unless they look at that server themselves, against a cluster."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "settings" in metafunc.fixturenames:
        kinds = [pytest.param("valkey_url", id="one server")]
        looks = {"redis", "valkey_url"} & inspect.signature(metafunc.function).parameters.keys()
        if metafunc.module.__name__.rpartition(".")[2] in _ON_A_CLUSTER_TOO and not looks:
            kinds.append(pytest.param("cluster_url", id="cluster", marks=pytest.mark.slow))
        metafunc.parametrize("settings", kinds, indirect=True)


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> RedisSettings:
    return RedisSettings(url=request.getfixturevalue(request.param))


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


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three primaries per pytest worker. Tests ask for ``cluster``."""
    with running_cluster(tmp_path_factory.mktemp("cluster") / "nodes") as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: RedisCluster) -> RedisCluster:
    """An empty cluster."""
    shared_cluster.flush()
    return shared_cluster


@pytest.fixture
def cluster_url(cluster: RedisCluster) -> str:
    return cluster.url
