"""What is said at the start about the way Redis is set up."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis_servers import RedisServer

from headrace_cli.embedded_redis import EmbeddedRedis
from headrace_shared.errors import UnavailableError
from headrace_shared.queue.client import connect
from headrace_shared.queue.server_check import ServerTooOldError, check_server, checking_server, refuse_old
from headrace_shared.settings import RedisSettings

SAFE = ("appendonly yes", "save ''")
StartServer = Callable[..., RedisServer]


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    with ExitStack() as stack:
        yield lambda *lines: stack.enter_context(RedisServer(tmp_path / "server", *lines))


async def findings(url: str) -> list[str]:
    redis = connect(RedisSettings(url=url))
    try:
        return await check_server(redis)
    finally:
        await redis.aclose()


async def test_the_embedded_server_leaves_nothing_to_say(own_valkey: EmbeddedRedis) -> None:
    assert await findings(own_valkey.url) == []


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("appendonly no", "save ''"), "appendonly"),
        ((*SAFE, "maxmemory 100mb", "maxmemory-policy allkeys-lru"), "noeviction"),
        ((*SAFE, "client-output-buffer-limit pubsub 1mb 1mb 10"), "client-output-buffer-limit"),
        ((*SAFE, "cluster-enabled yes"), r"redis+cluster://"),
        ((*SAFE, "replicaof 127.0.0.1 1"), "primary"),
    ],
)
async def test_each_setting_that_loses_requests_is_named_with_its_remedy(
    start_server: StartServer, lines: tuple[str, ...], words: str
) -> None:
    [finding] = await findings(start_server(*lines).url)
    assert words in finding


@pytest.mark.parametrize(
    "lines", [("appendonly no", "save 60 1"), ("appendonly yes", "maxmemory-policy allkeys-lru"), SAFE]
)
async def test_a_sound_server_leaves_nothing_to_say(start_server: StartServer, lines: tuple[str, ...]) -> None:
    assert await findings(start_server(*lines).url) == []


async def test_nothing_is_guessed_about_a_configuration_that_may_not_be_read(start_server: StartServer) -> None:
    server = start_server("appendonly no", "save ''", "user default on nopass ~* &* +@all -config")
    assert await findings(server.url) == []
    server.run("ACL SETUSER", "default", "-info")
    assert await findings(server.url) == []


async def test_wrong_credentials_are_said(valkey_url: str) -> None:
    with pytest.raises(UnavailableError, match="credentials"):
        await findings(f"redis://:wrong@{valkey_url.partition('@')[2]}")


async def test_each_finding_is_logged_once(start_server: StartServer, caplog: pytest.LogCaptureFixture) -> None:
    redis = connect(RedisSettings(url=start_server("appendonly no", "save ''").url))
    with caplog.at_level(logging.WARNING):
        async with checking_server(redis):
            while not caplog.records:  # noqa: ASYNC110 - a log has no event to wait for
                await asyncio.sleep(0.01)
    assert ["appendonly" in record.__dict__["finding"] for record in caplog.records] == [True]
    await redis.aclose()


def test_a_version_without_sharded_channels_is_refused() -> None:
    for version in ("7.0.0", "7.2.4", "8.0.1", "10.1"):
        refuse_old(version)
    with pytest.raises(ServerTooOldError, match=r"6\.2\.14 is too old"):
        refuse_old("6.2.14")
