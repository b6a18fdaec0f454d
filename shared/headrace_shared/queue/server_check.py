"""Whether a Redis server is set up so that nothing is lost: asked once at the start of a process, and only logged."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from headrace_shared.errors import UnavailableError
from headrace_shared.queue.client import reaching
from headrace_shared.queue.cluster import ClusterRedis

log = logging.getLogger(__name__)

_OLDEST = 7
"""Major version: sharded pub/sub came with it."""
_BUFFER_BYTES = (32 * 2**20, 8 * 2**20)
"""Hard and soft: the server's own defaults."""
_RETRY_S = 5.0


class ServerTooOldError(Exception):
    """This version of Redis cannot hold a queue; the message says which one can."""


async def check_server(redis: Redis) -> list[str]:
    """What is wrong with the server, or with any primary of the cluster: one sentence each, with what to do.

    Says nothing of what the server does not tell: managed services often hide their configuration.
    Raises UnavailableError when Redis is away or refuses the credentials, ServerTooOldError below version 7.0.
    """
    async with reaching(redis):
        servers = await redis.nodes.servers() if isinstance(redis, ClusterRedis) else [redis]
    found: dict[str, None] = {}
    for server in servers:
        async with reaching(server):
            info = await _info(server)
            config = await _config(server, "save", "client-output-buffer-limit")
        if info:
            refuse_old(str(info["redis_version"]))
            found |= dict.fromkeys(_place(info, isinstance(redis, ClusterRedis)) + _memory(info))
            found |= dict.fromkeys(_persistence(info, config))
        found |= dict.fromkeys(_buffers(config))
    return list(found)


def refuse_old(version: str) -> None:
    """Raises ServerTooOldError for a version below 7.0. Valkey calls itself 7.2.4 here."""
    if int(version.partition(".")[0]) < _OLDEST:
        raise ServerTooOldError(f"Redis {version} is too old: use Redis 7.0 or newer, or any Valkey.")


@asynccontextmanager
async def checking_server(redis: Redis) -> AsyncIterator[None]:
    """Log what ``check_server`` finds, in the background, as soon as Redis can be reached."""
    task = asyncio.create_task(_report(redis), name="redis-check")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _report(redis: Redis) -> None:
    said = ""
    while True:
        try:
            for finding in await check_server(redis):
                log.warning("redis should be set up differently", extra={"finding": finding})
            return
        except ServerTooOldError as error:
            log.error("redis cannot be used", extra={"reason": str(error)})
            return
        except UnavailableError as error:
            if str(error) != said:
                said = str(error)
                log.warning("redis is not there yet", extra={"reason": said})
        await asyncio.sleep(_RETRY_S)


async def _info(server: Redis) -> dict[str, Any]:
    try:
        info: dict[str, Any] = await server.info()
    except ResponseError as error:
        _raise_unless_hidden(error)
        return {}
    return info


async def _config(server: Redis, *names: str) -> dict[str, str]:
    try:
        config: dict[str, str] = await server.config_get(*names)  # type: ignore[arg-type]
    except ResponseError as error:
        _raise_unless_hidden(error)
        return {}
    return config


def _raise_unless_hidden(error: ResponseError) -> None:
    """NOPERM by an access list; an unknown command where the service has taken it away."""
    if "permission" not in str(error).lower() and "unknown" not in str(error).lower():
        raise error


def _place(info: dict[str, Any], by_slots: bool) -> list[str]:
    if info.get("cluster_enabled") == 1 and not by_slots:
        return ["This server is a node of a cluster: begin HEADRACE_REDIS_URL with redis+cluster://."]
    if info.get("role") == "slave":
        return ["This server is a replica and takes no requests: name its primary, or its sentinels."]
    return []


def _memory(info: dict[str, Any]) -> list[str]:
    policy = info.get("maxmemory_policy", "noeviction")
    if not info.get("maxmemory") or policy == "noeviction":
        return []
    return [f"maxmemory-policy is {policy}, which throws requests away when memory is short: set it to noeviction."]


def _persistence(info: dict[str, Any], config: dict[str, str]) -> list[str]:
    if info.get("aof_enabled") != 0 or config.get("save") != "":
        return []
    return ["Nothing is kept on disk, so that a restart of Redis loses every request: set appendonly to yes."]


def _buffers(config: dict[str, str]) -> list[str]:
    words = config.get("client-output-buffer-limit", "").split()
    if "pubsub" not in words:
        return []
    hard, soft = (int(word) for word in words[words.index("pubsub") + 1 :][:2])
    if all(limit == 0 or limit >= least for limit, least in zip((hard, soft), _BUFFER_BYTES, strict=True)):
        return []
    return [
        "The output buffer for subscribers is small, and API nodes that are slow for a moment will lose their "
        'connection: set client-output-buffer-limit to "pubsub 256mb 64mb 60".'
    ]
