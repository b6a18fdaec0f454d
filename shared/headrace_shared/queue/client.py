"""The connection to Redis: time-outs, retries, and one meaning for every way of not reaching it."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from redis.asyncio import ConnectionPool, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.connection import HiredisRespSerializer
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from headrace_shared.errors import UnavailableError
from headrace_shared.settings import RedisSettings

CALL_TIMEOUT_S = 2.0
"""Longest that one small call may take, retries included."""
_CONNECT_TIMEOUT_S = 1.0
_CANNOT_SERVE = ("BUSY", "CLUSTERDOWN", "MASTERDOWN", "MISCONF", "NOREPLICAS")


class _FairPool(ConnectionPool):
    """First come, first served. In redis-py's own blocking pool newcomers overtake those who wait, for seconds."""

    def __init__(self, max_connections: int, **kwargs: Any) -> None:
        super().__init__(max_connections=max_connections, **kwargs)
        self._places = asyncio.Semaphore(max_connections)

    def make_connection(self) -> Any:
        connection = super().make_connection()  # type: ignore[no-untyped-call]
        # In C; the asyncio connections of redis-py pack in Python, which shows with hundreds of frames per call.
        connection.pack_command = HiredisRespSerializer().pack
        return connection

    async def get_connection(self, command_name: object = None, *keys: object, **options: object) -> Any:
        await self._places.acquire()
        try:
            connection = self.get_available_connection()  # type: ignore[no-untyped-call]
        except BaseException:
            self._places.release()
            raise
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        """Only connects. redis-py also polls the socket, which doubles the latency of a call.

        It is not needed: an interrupted call has closed its connection, and a connection that the server has closed
        fails at once and is tried again.
        """
        await connection.connect()  # type: ignore[no-untyped-call]

    async def release(self, connection: AbstractConnection) -> None:
        try:
            await super().release(connection)
        finally:
            self._places.release()


def connect(settings: RedisSettings) -> Redis:
    """A client with its own pool, whose replies are bytes. Connects on first use, so it never fails here."""
    kwargs: dict[str, Any] = dict(parse_url(settings.url))
    if kwargs.get("connection_class") is SSLConnection:
        kwargs.setdefault("ssl_check_hostname", kwargs.get("ssl_cert_reqs") != "none")
    # Every state change is idempotent, so that retrying blindly is safe.
    retry = Retry(ExponentialBackoff(cap=0.2, base=0.02), 2)
    defaults: dict[str, Any] = {
        "max_connections": settings.max_connections,
        "socket_connect_timeout": _CONNECT_TIMEOUT_S,
        # redis-py would write under asyncio.wait_for, which in Python 3.11 swallows a cancellation that comes at the
        # wrong moment: the task then runs on for ever. ``reaching`` bounds every call instead.
        "socket_timeout": None,
        "retry": retry,
        "retry_on_error": [RedisConnectionError, RedisTimeoutError],
        "protocol": 2,
    }
    return Redis.from_pool(_FairPool(**(defaults | kwargs)))


@asynccontextmanager
async def reaching(redis: Redis, timeout_s: float = CALL_TIMEOUT_S) -> AsyncIterator[None]:
    """Turn every failure to reach a writable Redis within ``timeout_s`` into UnavailableError."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
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


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a raw connection goes, and how it introduces itself."""

    path: str | None
    host: str
    port: int
    username: str | None
    password: str | None
    tls: ssl.SSLContext | None

    @classmethod
    def of_client(cls, redis: Redis) -> "Endpoint":
        """The server that ``redis`` talks to."""
        pool: Any = redis.connection_pool
        connection = pool.make_connection()
        is_unix = isinstance(connection, UnixDomainSocketConnection)
        return cls(
            path=connection.path if is_unix else None,
            host="" if is_unix else connection.host,
            port=0 if is_unix else int(connection.port),
            username=connection.username,
            password=connection.password,
            tls=connection.ssl_context.get() if isinstance(connection, SSLConnection) else None,
        )

    @classmethod
    def of_settings(cls, settings: RedisSettings) -> "Endpoint":
        """The server that ``connect(settings)`` would talk to."""
        return cls.of_client(connect(settings))
