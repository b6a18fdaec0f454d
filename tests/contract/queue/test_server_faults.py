"""What a server does to its clients while streams are in flow: kills them, drops them, holds them up, is full."""

import asyncio
import contextlib
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from queue_traffic import QUEUE, make_job
from redis_servers import RedisServer, running_cluster, running_sentinels
from streams_in_progress import both_ends, hold_streams_through, one_request
from tcp_proxy import TcpProxy

from headrace_shared.errors import UnavailableError
from headrace_shared.queue import keys

pytestmark = pytest.mark.slow

StartServer = Callable[..., RedisServer]


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    with ExitStack() as stack:
        yield lambda *lines: stack.enter_context(RedisServer(tmp_path / "server", "save ''", *lines))


@pytest.mark.parametrize("kind", ["normal", "pubsub"])
async def test_connections_that_are_killed_again_and_again_cost_nothing(start_server: StartServer, kind: str) -> None:
    server = start_server()

    async def kill() -> None:
        for _ in range(40):
            await asyncio.to_thread(server.run, "CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            await asyncio.sleep(0.03)

    async with both_ends(server.url) as ends:
        await hold_streams_through(ends, kill)


async def test_scripts_flushed_again_and_again_cost_nothing(start_server: StartServer) -> None:
    server = start_server()

    async def flush() -> None:
        for _ in range(100):
            await asyncio.to_thread(server.run, "SCRIPT", "FLUSH")

    async with both_ends(server.url) as ends:
        assert await hold_streams_through(ends, flush) < 1


async def test_a_subscriber_dropped_for_reading_too_slowly_catches_up(start_server: StartServer) -> None:
    server = start_server("client-output-buffer-limit pubsub 1mb 1mb 1")

    async def flood() -> None:
        channel = keys.token_channel(QUEUE, "r0").decode()
        # All in one script, so that nothing can be read before the limit is passed.
        script = "for _ = 1, 30000 do redis.call('SPUBLISH', KEYS[1], ARGV[1]) end"
        for _ in range(5):
            await asyncio.to_thread(server.run, "EVAL", script, 1, channel, "0|" + "x" * 100)
            await asyncio.sleep(0.1)

    async with both_ends(server.url) as ends:
        await hold_streams_through(ends, flood)
    assert int(server.info("client_output_buffer_limit_disconnections")) >= 1


@pytest.mark.parametrize("mode", ["ALL", "WRITE"])
async def test_a_server_that_pauses_its_clients_is_a_pause(start_server: StartServer, mode: str) -> None:
    server = start_server()

    async def pause() -> None:
        await asyncio.to_thread(server.run, "CLIENT", "PAUSE", 1500, mode)
        await asyncio.sleep(2)

    async with both_ends(server.url) as ends:
        await hold_streams_through(ends, pause)


async def test_a_full_server_refuses_requests_and_loses_none_that_run(start_server: StartServer) -> None:
    server = start_server("maxmemory-policy noeviction")
    async with both_ends(server.url) as ends:

        async def fill() -> None:
            server.run("CONFIG", "SET", "maxmemory", 1)
            with pytest.raises(UnavailableError, match="memory"):
                await ends.requests.enqueue(make_job("late"))
            await asyncio.sleep(0.5)
            server.run("CONFIG", "SET", "maxmemory", 0)

        await hold_streams_through(ends, fill)
        await ends.requests.enqueue(make_job("late"))


async def test_a_server_without_a_free_connection_is_waited_for(start_server: StartServer) -> None:
    server = start_server("maxclients 64")
    strangers: list[socket.socket] = []

    async def crowd() -> None:
        for _ in range(100):
            strangers.append(socket.create_connection(("127.0.0.1", server.port)))
        # Without connections, in a server that takes no others.
        with contextlib.suppress(redis.RedisError), redis.Redis(port=server.port) as client:
            client.execute_command("CLIENT KILL TYPE normal SKIPME yes")
        await asyncio.sleep(0.5)
        for stranger in strangers:
            stranger.close()

    async with both_ends(server.url) as ends:
        await hold_streams_through(ends, crowd)
    assert int(server.info("rejected_connections")) > 0


def certificates(folder: Path) -> dict[str, Path]:
    """A CA, and a key pair signed by it for 127.0.0.1."""

    def run(*command: str | Path) -> None:
        subprocess.run(["openssl", *command], check=True, capture_output=True)

    paths = {name: folder / f"{name}.pem" for name in ("ca", "ca_key", "cert", "key", "request", "extra")}
    ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run("req", "-x509", *ec, "-days", "2", "-subj", "/CN=ca", "-keyout", paths["ca_key"], "-out", paths["ca"])
    run("req", *ec, "-subj", "/CN=redis", "-keyout", paths["key"], "-out", paths["request"])
    paths["extra"].write_text("subjectAltName=IP:127.0.0.1\n")
    signer = ("-CA", paths["ca"], "-CAkey", paths["ca_key"], "-CAcreateserial", "-days", "2")
    run("x509", "-req", "-in", paths["request"], *signer, "-extfile", paths["extra"], "-out", paths["cert"])
    return paths


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, str]:
    """A server's side that demands a certificate of the client, and the query that shows one."""
    paths = certificates(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(paths["ca"]))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(paths["cert"], paths["key"])
    query = f"ssl_ca_certs={paths['ca']}&ssl_certfile={paths['cert']}&ssl_keyfile={paths['key']}"
    return context, query


async def test_a_client_shows_its_certificate_for_commands_and_for_channels(
    start_server: StartServer, tls: tuple[ssl.SSLContext, str]
) -> None:
    context, query = tls
    async with TcpProxy(start_server().url, tls=context) as network:
        address = f"rediss://127.0.0.1:{network.port}/0"
        await one_request(f"{address}?{query}")
        async with both_ends(f"{address}?{query.partition('&')[0]}") as ends:
            with pytest.raises(UnavailableError):
                await ends.requests.enqueue(make_job("stranger"))
            with pytest.raises(UnavailableError):
                await ends.hub.open(QUEUE, "stranger")


async def test_streams_do_not_notice_a_failover_of_sentinels_that_are_reached_over_tls(
    tmp_path: Path, tls: tuple[ssl.SSLContext, str]
) -> None:
    context, query = tls
    with running_sentinels(tmp_path / "sentinel") as group:
        [sentinel] = group.sentinels
        async with (
            TcpProxy(group.primary.url, tls=context, plain_too=True) as first,
            TcpProxy(group.replica.url, tls=context, plain_too=True) as second,
            TcpProxy(sentinel.url, tls=context) as door,
        ):
            await asyncio.to_thread(group.announce, first.port, second.port)
            address = f"rediss+sentinel://127.0.0.1:{door.port}/{group.service}/0"
            async with both_ends(f"{address}?{query}") as ends:
                await hold_streams_through(ends, lambda: asyncio.to_thread(group.promote, second.port))
            async with both_ends(f"{address}?{query.partition('&')[0]}") as ends:
                with pytest.raises(UnavailableError):
                    await ends.requests.enqueue(make_job("stranger"))


async def test_a_cluster_is_reached_over_tls(tmp_path: Path, tls: tuple[ssl.SSLContext, str]) -> None:
    context, query = tls
    with running_cluster(tmp_path / "cluster", 1) as cluster:
        [server] = cluster.primaries
        async with TcpProxy(server.url, tls=context) as network:
            server.run("CONFIG", "SET", "cluster-announce-port", network.port)
            await one_request(f"rediss+cluster://127.0.0.1:{network.port}?{query}")
