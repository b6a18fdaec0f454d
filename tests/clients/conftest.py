"""One API node in front of a simulated model and of a tiny real one, for the clients that people use."""

import os
from collections.abc import Iterator

import pytest
from batching import BatchWorkerProcess
from constrained import save_served_model
from fleet import ApiProcess, Fleet, fleet_on, wait_until
from parrot import NAME, start

from headrace_cli.embedded_redis import EmbeddedRedis

# litellm would look for its price list on the network while it is imported; langchain would send traces.
os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false"}


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with EmbeddedRedis(tmp_path_factory.mktemp("valkey")) as server, fleet_on(server.url) as fleet:
        yield fleet


@pytest.fixture(scope="session")
def node(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    """Serves ``simulated``, whose words are random but always the same for one seed, and has a batch worker beside it."""
    fleet.worker(lease_ms=5000)
    files = tmp_path_factory.mktemp("files")
    node = fleet.api(files=files)
    batch_worker = BatchWorkerProcess(fleet.redis_url, files=files, batch_lease_s=2)
    node.wait_until_ready(timeout_s=100)
    yield node
    batch_worker.kill()


@pytest.fixture(scope="session")
def following(node: ApiProcess, fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a model that has weights, and so can follow a schema."""
    folder = save_served_model(tmp_path_factory.mktemp("model"))
    settings = {"engine": "torch", "device": "cpu", "threads": 1, "kv_cache_memory": "64MiB", "lease_ms": 5000}
    fleet.worker(model=str(folder), served_model_name="following", **settings)
    # Loading it takes seconds, and many more where several suites run at once.
    wait_until(
        lambda: "following" in {model.id for model in node.client().models.list()},
        "the tiny model is served",
        timeout_s=100,
    )
    return "following"


@pytest.fixture(scope="session")
def parrot(node: ApiProcess, fleet: Fleet) -> Iterator[str]:
    """The name of a model that writes what a test wants it to, calls and thoughts as well."""
    process = start(fleet.redis_url)
    try:
        wait_until(lambda: NAME in {model.id for model in node.client().models.list()}, "the parrot is served")
        yield NAME
    finally:
        process.kill()
        process.wait()
