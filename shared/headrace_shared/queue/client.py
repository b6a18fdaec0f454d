"""The connection to Redis: time-outs, retries, and one meaning for every way of not reaching it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import ConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.crc import key_slot
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from headrace_shared.clock import mono_s
from headrace_shared.errors import UnavailableError
from headrace_shared.queue.address import RedisAddress
from headrace_shared.queue.cluster import Cluster, ClusterRedis
from headrace_shared.queue.pool import FairPool
from headrace_shared.queue.sentinel import SentinelPool, Sentinels, SentinelTopology
from headrace_shared.queue.topology import Endpoint, OneServer, Topology
from headrace_shared.queue.watch import watch_of
from headrace_shared.settings import RedisSettings

CALL_TIMEOUT_S = 2.0
"""Longest that one small call may take, retries included."""
_CONNECT_TIMEOUT_S = 1.0
# ASK and TRYAGAIN: the slot is being moved to another node, key by key.
_CANNOT_SERVE = ("ASK", "BUSY", "CLUSTERDOWN", "MASTERDOWN", "MISCONF", "MOVED", "NOREPLICAS", "TRYAGAIN")


def connect(settings: RedisSettings) -> Redis:
    """A client with its own connections, whose replies are bytes. Connects on first use, so it never fails here."""
    address = RedisAddress.of_url(settings.url)
    defaults: dict[str, Any] = {
        "socket_connect_timeout": _CONNECT_TIMEOUT_S,
        # redis-py would write under asyncio.wait_for, which in Python 3.11 swallows a cancellation that comes at the
        # wrong moment: the task then runs on for ever. ``reaching`` bounds every call instead.
        "socket_timeout": None,
        "protocol": 2,
    }
    # Every state change is idempotent, so that retrying blindly is safe.
    retries: dict[str, Any] = {
        "retry": Retry(ExponentialBackoff(cap=0.2, base=0.02), 2),
        "retry_on_error": [RedisConnectionError, RedisTimeoutError],
    }
    options = {"max_connections": settings.max_connections} | defaults | retries | address.options
    if address.kind == "cluster":
        return ClusterRedis(Cluster(address.hosts, options))
    if address.kind == "sentinel":
        sentinels = Sentinels(address.hosts, address.service, defaults | address.sentinel_options)
        tls = options.pop("connection_class", None) is SSLConnection
        return Redis.from_pool(SentinelPool(sentinels, tls=tls, **options))
    for host, port in address.hosts:
        options |= {"host": host, "port": port}
    return Redis.from_pool(FairPool(**options))


def topology_of(redis: Redis) -> Topology:
    """Where the channels of this Redis are heard."""
    if isinstance(redis, ClusterRedis):
        return redis.nodes
    if isinstance(redis.connection_pool, SentinelPool):
        return SentinelTopology(redis.connection_pool)
    return OneServer(Endpoint.of_pool(redis.connection_pool))


async def pool_for(redis: Redis, key: str) -> ConnectionPool:
    """The connections to the server that has this key now, for libraries that want nothing else of Redis."""
    if isinstance(redis, ClusterRedis):
        _, redis = await redis.nodes.owner(key_slot(key.encode()))
    return redis.connection_pool


@asynccontextmanager
async def reaching(redis: Redis, timeout_s: float = CALL_TIMEOUT_S, operation: str = "command") -> AsyncIterator[None]:
    """Turn every failure to reach a writable Redis within ``timeout_s`` into UnavailableError."""
    begun_s = mono_s()
    failed = True
    try:
        async with asyncio.timeout(timeout_s):
            yield
        failed = False
    except asyncio.CancelledError:
        failed = False
        raise
    except ReadOnlyError as error:
        # After a failover these connections still lead to the old primary.
        await redis.connection_pool.disconnect(inuse_connections=False)
        raise UnavailableError("Redis is read-only") from error
    except (AuthenticationError, AuthorizationError) as error:
        raise UnavailableError("Redis refuses the credentials") from error
    except (RedisConnectionError, RedisTimeoutError, TimeoutError, OSError) as error:
        raise UnavailableError("Redis cannot be reached") from error
    except OutOfMemoryError as error:
        raise UnavailableError("Redis is out of memory") from error
    except ResponseError as error:
        if str(error).startswith(_CANNOT_SERVE):
            raise UnavailableError("Redis cannot serve just now") from error
        raise
    finally:
        watch_of(redis).called(operation, mono_s() - begun_s, failed=failed)
