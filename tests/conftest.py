"""Fixtures for every suite: a real server, private to each pytest worker."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import settings

from headrace_cli.embedded_redis import EmbeddedRedis

# An example's time says how busy the machine is, nothing of the code.
settings.register_profile("headrace", deadline=None)
settings.load_profile("headrace")


@pytest.fixture(scope="session")
def shared_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """One server per pytest worker. Tests ask for ``valkey_url``."""
    with EmbeddedRedis(tmp_path_factory.mktemp("valkey"), listen="tcp") as server:
        yield server


@pytest.fixture
def valkey_url(shared_valkey: EmbeddedRedis) -> str:
    """The address of an empty server."""
    with redis.Redis.from_url(shared_valkey.url) as client:
        client.flushall()
    return shared_valkey.url


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A server of this test's own, to be killed and started again."""
    with EmbeddedRedis(tmp_path / "valkey") as server:
        yield server
