"""Redis away, restarted, flushed, full; the ways to reach it."""

import asyncio
import contextlib
import random
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from queue_traffic import QUEUE, ending, finish, make_job, positions, serve, speak, token
from redis.asyncio import Redis
from tcp_proxy import TcpProxy

from headrace_cli.embedded_redis import EmbeddedRedis
from headrace_shared.errors import UnavailableError
from headrace_shared.protocol.event import Event, Finished
from headrace_shared.queue.claims import AppendStatus, FrameOut, WorkerQueue
from headrace_shared.queue.client import connect
from headrace_shared.queue.hub import StreamHub
from headrace_shared.queue.requests import EnqueueResult, QueueLimits, RequestQueue
from headrace_shared.queue.stream import ResultStream
from headrace_shared.settings import RedisSettings

pytestmark = pytest.mark.slow

ALL = 10**9


@contextlib.asynccontextmanager
async def both_ends(url: str) -> AsyncIterator[tuple[Redis, RequestQueue, WorkerQueue, StreamHub]]:
    settings = RedisSettings(url=url)
    redis = connect(settings)
    hub = StreamHub(redis)
    await hub.start()
    try:
        yield redis, RequestQueue(redis, QueueLimits()), WorkerQueue(redis, QUEUE, "w", 60_000), hub
    finally:
        await hub.close()
        await redis.aclose()


async def read(stream: ResultStream) -> list[Event]:
    return [event async for frame in stream for event in frame]


def self_signed(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "cert.pem", folder / "key.pem"
    options = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    command = ["openssl", "req", *options.split(), "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


async def one_request(url: str) -> None:
    async with both_ends(url) as (_, requests, worker, hub):
        stream = await hub.open(QUEUE, "r")
        await requests.enqueue(make_job("r"))
        [claim] = await worker.claim(1, ALL)
        await serve(worker, claim, tokens=5)
        assert positions(await read(stream)) == [0, 1, 2, 3, 4]


async def test_a_request_is_served_over_a_unix_socket_with_a_password(own_valkey: EmbeddedRedis) -> None:
    assert own_valkey.url.startswith("unix://:")
    await one_request(own_valkey.url)


async def test_a_request_is_served_for_a_named_user_on_another_database(valkey_url: str, redis: Redis) -> None:
    await redis.acl_setuser(
        "ann", enabled=True, passwords=["+p@ss/word"], keys=["hr:*"], channels=["hr:*"], categories=["+@all"]
    )
    address = valkey_url.partition("@")[2].removesuffix("/0")
    try:
        await one_request(f"redis://ann:p%40ss%2Fword@{address}/3")
    finally:
        await redis.acl_deluser("ann")


async def test_a_request_is_served_over_tls_and_only_with_a_trusted_certificate(
    valkey_url: str, tmp_path: Path
) -> None:
    certificate, key = await asyncio.to_thread(self_signed, tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    async with TcpProxy(valkey_url, tls=context) as network:
        await one_request(f"{network.url}?ssl_ca_certs={certificate}")
        async with both_ends(network.url) as (_, requests, _worker, hub):
            with pytest.raises(UnavailableError):
                await requests.enqueue(make_job("untrusted"))
            with pytest.raises(UnavailableError):
                await hub.open(QUEUE, "untrusted")


async def test_wrong_credentials_are_unavailability_with_the_reason(valkey_url: str) -> None:
    address = valkey_url.partition("@")[2]
    async with both_ends(f"redis://:wrong@{address}") as (_, requests, _worker, _hub):
        with pytest.raises(UnavailableError, match="credentials"):
            await requests.enqueue(make_job("r"))


async def test_redis_away_is_said_within_two_seconds_and_is_over_when_it_is_back(valkey_url: str) -> None:
    async with TcpProxy(valkey_url) as network, both_ends(network.url) as (_, requests, worker, hub):
        await requests.enqueue(make_job("before"))
        await network.refuse()
        for call in (
            requests.enqueue(make_job("r")),
            requests.depth(QUEUE),
            worker.claim(1, ALL),
            hub.open(QUEUE, "r"),
        ):
            started = time.monotonic()
            with pytest.raises(UnavailableError):
                await call
            assert time.monotonic() - started < 2
        await network.listen()
        assert (await requests.enqueue(make_job("r"))).result is EnqueueResult.NEW
        for _ in range(30):
            with contextlib.suppress(UnavailableError):
                await hub.open(QUEUE, "r")
                break
        else:
            pytest.fail("the hub did not come back")


async def test_redis_that_swallows_everything_is_noticed_in_two_seconds(valkey_url: str) -> None:
    async with TcpProxy(valkey_url) as network, both_ends(network.url) as (_, requests, _worker, hub):
        await requests.enqueue(make_job("before"))
        stream = await hub.open(QUEUE, "r")
        network.replies = False
        started = time.monotonic()
        with pytest.raises(UnavailableError):
            await requests.enqueue(make_job("r"))
        assert time.monotonic() - started < 2.5
        network.replies = True
        assert (await requests.enqueue(make_job("r"))).result is EnqueueResult.DUPLICATE
        stream.close()


async def test_cut_connections_in_the_middle_of_everything_cost_nothing(valkey_url: str) -> None:
    async with TcpProxy(valkey_url) as network, both_ends(network.url) as (_, requests, worker, hub):
        streams = [await hub.open(QUEUE, f"r{n}") for n in range(10)]
        for n in range(10):
            await requests.enqueue(make_job(f"r{n}"))
        claims = await worker.claim(10, ALL)

        async def produce() -> None:
            for seq in range(1, 101):
                frames = [FrameOut(c.request_id, c.epoch, seq, [token(seq - 1)]) for c in claims]
                while True:
                    with contextlib.suppress(UnavailableError):
                        answers = await worker.append(frames)
                        break
                assert {a.status for a in answers} <= {AppendStatus.OK, AppendStatus.DUPLICATE}
                if seq % 9 == 0:
                    network.cut()
                await asyncio.sleep(0.003)
            for claim in claims:
                await finish(worker, claim, 101)

        results = await asyncio.gather(*(read(stream) for stream in streams), produce())
        for events in results[:-1]:
            assert events is not None
            assert positions(events) == list(range(100))


@pytest.mark.parametrize("gracefully", [True, False])
async def test_a_restart_in_the_middle_of_streams_is_a_pause(own_valkey: EmbeddedRedis, gracefully: bool) -> None:
    """After a crash up to a second of the log is lost; the worker still has those frames and sends them again."""
    async with both_ends(own_valkey.url) as (_, requests, worker, hub):
        streams = [await hub.open(QUEUE, f"r{n}") for n in range(10)]
        for n in range(10):
            await requests.enqueue(make_job(f"r{n}"))
        claims = await worker.claim(10, ALL)
        if not gracefully:
            await asyncio.sleep(1.5)  # let the requests themselves reach the disk

        async def say(request_id: str, epoch: int) -> None:
            seq = 1
            while seq <= 80:
                try:
                    [answer] = await worker.append([FrameOut(request_id, epoch, seq, [token(seq - 1)])])
                except UnavailableError:
                    await asyncio.sleep(0.05)
                    continue
                assert answer.status in (AppendStatus.OK, AppendStatus.DUPLICATE, AppendStatus.GAP)
                seq = answer.seq + 1
                await asyncio.sleep(0.01)
            [claim] = [claim for claim in claims if claim.request_id == request_id]
            await finish(worker, claim, seq)

        async def restart() -> None:
            await asyncio.sleep(0.3)
            await asyncio.to_thread(own_valkey.stop if gracefully else own_valkey.kill)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(own_valkey.start)

        talkers = [say(claim.request_id, claim.epoch) for claim in claims]
        *results, _ = await asyncio.gather(*(read(stream) for stream in streams), restart(), *talkers)
        for events in results[:10]:
            assert events is not None
            assert positions(events) == list(range(80))
            assert isinstance(ending(events), Finished)


async def test_flushed_scripts_are_loaded_again(redis: Redis, requests: RequestQueue, worker: WorkerQueue) -> None:
    for n in range(3):
        await redis.script_flush()
        await requests.enqueue(make_job(f"r{n}"))
        await redis.script_flush()
        [claim] = await worker.claim(1, ALL)
        await redis.script_flush()
        assert [a.status for a in await speak(worker, claim, 0)] == [AppendStatus.OK]


async def test_a_full_redis_refuses_requests_and_recovers(own_valkey: EmbeddedRedis) -> None:
    async with both_ends(own_valkey.url) as (redis, requests, worker, _):
        await requests.enqueue(make_job("early"))
        await redis.config_set("maxmemory", "1")
        with pytest.raises(UnavailableError, match="memory"):
            await requests.enqueue(make_job("late"))
        with pytest.raises(UnavailableError, match="memory"):
            await worker.claim(1, ALL)
        await redis.config_set("maxmemory", "0")
        assert (await requests.enqueue(make_job("late"))).result is EnqueueResult.NEW
        assert [c.request_id for c in await worker.claim(9, ALL)] == ["early", "late"]


async def test_a_read_only_replica_is_unavailability(own_valkey: EmbeddedRedis) -> None:
    async with both_ends(own_valkey.url) as (redis, requests, _worker, _hub):
        await redis.execute_command("REPLICAOF", "127.0.0.1", "1")  # type: ignore[no-untyped-call]
        with pytest.raises(UnavailableError):
            await requests.enqueue(make_job("r"))
        await redis.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]
        await requests.enqueue(make_job("r"))


async def test_a_thousand_callers_share_a_few_connections(
    redis: Redis, requests: RequestQueue, worker: WorkerQueue
) -> None:
    await asyncio.gather(*(requests.enqueue(make_job(f"r{n}")) for n in range(1000)))
    assert len(await worker.claim(2000, ALL)) == 1000
    assert len(await redis.client_list()) < 20


async def test_interrupted_calls_never_leave_their_answer_to_somebody_else(
    redis: Redis, requests: RequestQueue, worker: WorkerQueue
) -> None:
    rng = random.Random(5)
    for n in range(50):
        await redis.set(f"key{n}", str(n))
    mistakes = 0

    async def call(n: int) -> None:
        nonlocal mistakes
        for _ in range(20):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rng.uniform(0.0001, 0.004)):
                    mistakes += int(await redis.get(f"key{n}")) != n
                    mistakes += (await requests.depth(QUEUE)).running != 0

    await asyncio.gather(*(call(n) for n in range(50)))
    assert mistakes == 0
    assert (await redis.get("key7"), await worker.claim(1, ALL)) == (b"7", [])


async def test_callers_beyond_the_connections_wait_their_turn(settings: RedisSettings) -> None:
    """With a pool that lets newcomers in first, some of these would wait for ever."""
    redis = connect(settings.model_copy(update={"max_connections": 2}))
    requests = RequestQueue(redis, QueueLimits())
    longest = 0.0

    async def call() -> None:
        nonlocal longest
        for _ in range(50):
            started = time.monotonic()
            await requests.depth(QUEUE)
            longest = max(longest, time.monotonic() - started)

    await asyncio.gather(*(call() for _ in range(40)))
    assert longest < 1
    await redis.aclose()
