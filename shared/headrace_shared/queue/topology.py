"""Topology: at which server a channel is heard, and how that server is reached without redis-py."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from redis.asyncio import ConnectionPool, SSLConnection, UnixDomainSocketConnection


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
    def of_pool(cls, pool: ConnectionPool) -> "Endpoint":
        """The server that the connections of ``pool`` go to."""
        connection: Any = pool.make_connection()  # type: ignore[no-untyped-call]
        is_unix = isinstance(connection, UnixDomainSocketConnection)
        return cls(
            path=connection.path if is_unix else None,
            host="" if is_unix else connection.host,
            port=0 if is_unix else int(connection.port),
            username=connection.username,
            password=connection.password,
            tls=connection.ssl_context.get() if isinstance(connection, SSLConnection) else None,
        )


class Topology(Protocol):
    """What is known of the servers now. The same server is always the same Endpoint."""

    by_slot: bool
    """One SSUBSCRIBE may name only channels of one hash slot."""
    ask_role: bool
    """A server has to be asked whether it is the primary: replicas take subscriptions too, and never say anything."""

    def home(self, channel: bytes) -> Endpoint | None:
        """Where this channel is heard; None when nobody knows just now."""

    def endpoints(self) -> set[Endpoint]:
        """Every server that may be some channel's home."""

    async def refresh(self) -> None:
        """Look again. Raises RedisError, OSError or TimeoutError when nobody can be asked."""

    def watch(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """Call this whenever homes have changed, until the returned function is called."""


class Watchers:
    """The part of a Topology that tells of changes."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], None]] = []

    def watch(self, on_change: Callable[[], None]) -> Callable[[], None]:
        self._callbacks.append(on_change)
        return lambda: self._callbacks.remove(on_change)

    def tell(self) -> None:
        for callback in self._callbacks:
            callback()


class OneServer:
    """A server that never moves."""

    by_slot = False
    ask_role = False

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def home(self, channel: bytes) -> Endpoint | None:
        return self._endpoint

    def endpoints(self) -> set[Endpoint]:
        return {self._endpoint}

    async def refresh(self) -> None:
        return None

    def watch(self, on_change: Callable[[], None]) -> Callable[[], None]:
        return lambda: None
