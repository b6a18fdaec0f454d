"""The same queue in a cluster and behind Sentinel: slots that move, primaries that die, sentinels that hang."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from arq import ArqRedis
from batching import batch_is_over, chats, running_batch_worker
from eventually import eventually
from live_api import running_api
from queue_traffic import QUEUE, make_job, positions, serve
from redis_servers import (
    RedisCluster,
    RedisServer,
    SentinelGroup,
    running_cluster,
    running_sentinels,
    until,
)
from scripted_worker import running_worker
from streams_in_progress import both_ends, hold_streams_through, one_request

from headrace_shared.errors import UnavailableError
from headrace_shared.model_card import ModelCard
from headrace_shared.queue import keys
from headrace_shared.queue.batch_jobs import WORK
from headrace_shared.queue.blobs import BlobStore
from headrace_shared.queue.claims import WorkerQueue
from headrace_shared.queue.presence import Presence, WorkerState
from headrace_shared.queue.requests import CancelOutcome

pytestmark = pytest.mark.slow

BASE = keys.base(QUEUE)
BLINK_S = 2.0
"""Longest pause that may show where nothing has to be waited for, on a busy machine."""


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[SentinelGroup]:
    with running_sentinels(tmp_path / "sentinel") as group:
        yield group


def another(cluster: RedisCluster) -> RedisServer:
    """A primary that does not have the queue."""
    return next(server for server in cluster.primaries if server is not cluster.owner(BASE))


async def test_a_request_is_served_in_a_cluster(cluster: RedisCluster) -> None:
    await one_request(cluster.url)


async def test_a_batch_is_worked_on_in_a_cluster(cluster: RedisCluster, tmp_path: Path) -> None:
    async with (
        running_worker(cluster.url),
        running_api(cluster.url, files=tmp_path) as api,
        running_batch_worker(cluster.url, tmp_path) as services,
    ):
        for _ in range(3):
            batch = await batch_is_over(api, chats(20, model="tiny"))
            assert (batch.status, batch.error_file_id) == ("completed", None)
        assert len((await api.sdk.batches.list()).data) == 3
        # No job of arq's is left over.
        jobs = await services.batch_jobs.client()
        await eventually(lambda: no_jobs(jobs))


async def no_jobs(jobs: ArqRedis) -> bool:
    return not [job for job in await jobs.queued_jobs() if job.function == WORK]


async def test_queues_on_every_node_are_read_and_heard_through_one_client(cluster: RedisCluster) -> None:
    queues = [f"model.{n}" for n in range(12)]
    assert len({cluster.owner(keys.base(queue)).port for queue in queues}) == 3
    async with both_ends(cluster.url) as ends:
        streams = [await ends.hub.open(queue, "r") for queue in queues]
        for queue in queues:
            await ends.requests.enqueue(make_job("r", queue=queue))
        assert await ends.requests.find(queues, "unknown") is None
        for queue in queues:
            worker = WorkerQueue(ends.redis, queue, f"w-{queue}", 60_000)
            [claim] = await worker.claim(1, 10**9)
            await serve(worker, claim, tokens=3)
        for stream in streams:
            assert positions([event async for frame in stream for event in frame]) == [0, 1, 2]


async def test_workers_and_their_models_are_seen_in_a_cluster(cluster: RedisCluster) -> None:
    async with both_ends(cluster.url) as ends:
        presence, blobs = Presence(ends.redis), BlobStore(ends.redis)
        card = ModelCard(name="m", tokenizer=await blobs.put(b"tokens"), max_model_len=10, vocab_size=9)
        state = WorkerState(worker_id="w", queue=QUEUE, card_digest=card.digest)
        assert await presence.announce(card, state, 60_000) == []
        assert [model.card for model in (await presence.fleet()).models] == [card]
        assert await presence.queues() == [QUEUE]
        assert await blobs.get(card.tokenizer) == b"tokens"
        await presence.withdraw("w")
        assert (await presence.fleet()).models == []


async def test_a_slot_that_moves_at_once_takes_its_streams_along(cluster: RedisCluster) -> None:
    async with both_ends(cluster.url) as ends:
        target = another(cluster)
        longest_s = await hold_streams_through(ends, lambda: asyncio.to_thread(cluster.move_at_once, BASE, target))
        assert longest_s < BLINK_S


async def test_a_slot_that_moves_key_by_key_is_a_pause(cluster: RedisCluster) -> None:
    """Nothing may be written at the new owner before the last key is there."""
    async with both_ends(cluster.url) as ends:
        target = another(cluster)
        await hold_streams_through(ends, lambda: asyncio.to_thread(cluster.move_by_keys, BASE, target, 0.02))
        assert cluster.owner(BASE) is target
        depth = await ends.requests.depth(QUEUE)
        assert (depth.queued_requests, depth.queued_tokens, depth.running) == (0, 0, 0)


async def test_scripts_flushed_on_every_node_are_loaded_again(cluster: RedisCluster) -> None:
    async def flush() -> None:
        for _ in range(10):
            for server in cluster.primaries:
                await asyncio.to_thread(server.run, "SCRIPT FLUSH")

    async with both_ends(cluster.url) as ends:
        assert await hold_streams_through(ends, flush) < BLINK_S


async def test_a_cluster_survives_the_death_of_a_primary(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "cluster", 3, 1) as cluster:
        first = cluster.owner(BASE)
        [replica] = [replica for replica in cluster.replicas if int(replica.run("INFO")["master_port"]) == first.port]

        async def die() -> None:
            await asyncio.to_thread(first.kill)
            await asyncio.to_thread(until, lambda: replica.info("role") == "master", "the replica takes over")

        async with both_ends(cluster.url) as ends:
            await hold_streams_through(ends, die)
            # The same again with a primary that lives on as a replica, and keeps its connections.
            await asyncio.to_thread(first.start)
            await asyncio.to_thread(until, lambda: first.info("master_link_status") == "up", "it is a replica")
            stream = await ends.hub.open(QUEUE, "heard")
            await ends.requests.enqueue(make_job("heard"))
            await ends.worker.claim(1, 10**9)
            await asyncio.to_thread(first.run, "CLUSTER FAILOVER")
            await asyncio.to_thread(until, lambda: first.info("role") == "master", "it is the primary again")
            await asyncio.to_thread(until, lambda: _hears(first, "heard"), "the channel has moved with its primary")
            outcome = await ends.requests.cancel(QUEUE, "heard", "nobody", unless_heard=True)
            assert outcome is CancelOutcome.HEARD
            stream.close()


def _hears(server: RedisServer, request_id: str) -> bool:
    channel = keys.token_channel(QUEUE, request_id).decode()
    return channel in server.run("PUBSUB", "SHARDCHANNELS")


async def test_a_cluster_whose_first_named_node_is_gone_is_found(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "cluster") as cluster:
        dead = RedisServer(tmp_path / "dead")
        await one_request(f"redis+cluster://127.0.0.1:{dead.port},127.0.0.1:{cluster.primaries[2].port}/")


async def test_a_cluster_out_of_reach_is_unavailability(tmp_path: Path) -> None:
    async with both_ends(f"redis+cluster://127.0.0.1:{RedisServer(tmp_path / 'dead').port}") as ends:
        for call in (
            ends.requests.enqueue(make_job("r")),
            ends.requests.find([QUEUE], "r"),
            ends.hub.open(QUEUE, "r"),
        ):
            with pytest.raises(UnavailableError):
                await call


async def test_the_primary_is_found_through_a_sentinel(sentinels: SentinelGroup) -> None:
    await one_request(sentinels.url)


async def test_streams_do_not_notice_an_orderly_failover(sentinels: SentinelGroup) -> None:
    async with both_ends(sentinels.url) as ends:
        await hold_streams_through(ends, lambda: asyncio.to_thread(sentinels.promote))
        stream = await ends.hub.open(QUEUE, "after")
        await asyncio.to_thread(until, lambda: _hears(sentinels.replica, "after"), "it is heard at the new primary")
        stream.close()


async def test_streams_survive_the_death_of_the_primary(sentinels: SentinelGroup) -> None:
    async def die() -> None:
        await asyncio.to_thread(sentinels.primary.kill)
        await asyncio.to_thread(sentinels.wait_for, sentinels.replica)

    async with both_ends(sentinels.url) as ends:
        await hold_streams_through(ends, die)


async def test_streams_survive_a_primary_that_hangs_and_comes_back_as_a_replica(sentinels: SentinelGroup) -> None:
    async def hang() -> None:
        sentinels.primary.suspend()
        await asyncio.to_thread(sentinels.wait_for, sentinels.replica)
        sentinels.primary.resume()
        await asyncio.to_thread(until, lambda: sentinels.primary.info("role") == "slave", "it is a replica")

    async with both_ends(sentinels.url) as ends:
        await hold_streams_through(ends, hang)


async def test_sentinels_that_are_dead_or_hang_are_passed_over(sentinels: SentinelGroup, tmp_path: Path) -> None:
    dead = RedisServer(tmp_path / "dead")
    with RedisServer(tmp_path / "hanging") as hanging:
        hanging.suspend()
        hosts = ",".join(f"127.0.0.1:{s.port}" for s in (dead, hanging, *sentinels.sentinels))
        await one_request(f"redis+sentinel://{hosts}/{sentinels.service}")


async def test_a_name_that_no_sentinel_knows_is_unavailability(sentinels: SentinelGroup) -> None:
    async with both_ends(sentinels.url.replace(sentinels.service, "unknown")) as ends:
        with pytest.raises(UnavailableError):
            await ends.requests.enqueue(make_job("r"))
        with pytest.raises(UnavailableError):
            await ends.hub.open(QUEUE, "r")


async def test_sentinels_and_servers_may_have_different_passwords(tmp_path: Path) -> None:
    with running_sentinels(tmp_path / "sentinel") as group:
        for server in (group.primary, group.replica):
            server.run("ACL SETUSER", "ann", "on", ">secret", "~*", "&*", "+@all")
        for sentinel in group.sentinels:
            sentinel.run("ACL SETUSER", "bob", "on", ">other", "~*", "&*", "+@all")
            sentinel.run("ACL SETUSER", "default", "off")
        hosts = group.url.partition("://")[2]
        await one_request(f"redis+sentinel://ann:secret@{hosts}?sentinel_username=bob&sentinel_password=other")
