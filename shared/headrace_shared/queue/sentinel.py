"""Sentinels: they know which of the servers is the primary. Asked whenever a connection is made."""

import asyncio
from dataclasses import replace
from typing import Any

from redis.asyncio import Connection, Redis, SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from headrace_shared.queue.address import Host
from headrace_shared.queue.pool import FairPool
from headrace_shared.queue.topology import Endpoint, Watchers

_ASK_TIMEOUT_S = 0.5


class Sentinels:
    """Asks one after the other, first the one that answered last."""

    def __init__(self, hosts: list[Host], service: str, options: dict[str, Any]) -> None:
        self._hosts = list(hosts)
        self._service = service
        self._options = options

    async def primary(self) -> Host:
        """Raises RedisError, OSError or TimeoutError when none of them answers or knows the service."""
        failure: Exception = RedisConnectionError("no sentinel knows the primary")
        for host in list(self._hosts):
            try:
                async with asyncio.timeout(_ASK_TIMEOUT_S):
                    answer = await self._ask(host)
            except (RedisError, OSError, TimeoutError) as error:
                failure = error
                continue
            if answer is not None:
                self._hosts.remove(host)
                self._hosts.insert(0, host)
                return answer
        raise failure

    async def _ask(self, host: Host) -> Host | None:
        pool = FairPool(1, host=host[0], port=host[1], lib_name=None, lib_version=None, **self._options)
        client = Redis.from_pool(pool)
        try:
            found: list[bytes] | None = await client.execute_command(  # type: ignore[no-untyped-call]
                "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service
            )
            return (found[0].decode(), int(found[1])) if found else None
        finally:
            await client.aclose()


class _ToPrimary(Connection):
    """A connection to whoever is the primary at the time of connecting."""

    def __init__(self, *, sentinels: Sentinels, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._sentinels = sentinels

    async def connect(self) -> None:
        if not self.is_connected:
            try:
                self.host, self.port = await self._sentinels.primary()
            except (OSError, TimeoutError) as error:
                raise RedisConnectionError(f"no sentinel answers: {error}") from error
        await super().connect()  # type: ignore[no-untyped-call]


class _ToPrimaryTls(_ToPrimary, SSLConnection):
    pass


class SentinelPool(FairPool):
    """Connections to the primary. After a failover, those to the old one have to be disconnected."""

    def __init__(self, sentinels: Sentinels, *, tls: bool, **kwargs: Any) -> None:
        self.sentinels = sentinels
        kwargs["connection_class"] = _ToPrimaryTls if tls else _ToPrimary
        super().__init__(sentinels=sentinels, **kwargs)


class SentinelTopology(Watchers):
    """Every channel is heard at the primary."""

    by_slot = False
    ask_role = True

    def __init__(self, pool: SentinelPool) -> None:
        super().__init__()
        self._sentinels = pool.sentinels
        self._nowhere = Endpoint.of_pool(pool)
        self._primary: Endpoint | None = None

    def home(self, channel: bytes) -> Endpoint | None:
        return self._primary

    def endpoints(self) -> set[Endpoint]:
        return {self._primary} if self._primary else set()

    async def refresh(self) -> None:
        host, port = await self._sentinels.primary()
        if self._primary is None or (self._primary.host, self._primary.port) != (host, port):
            self._primary = replace(self._nowhere, host=host, port=port)
            self.tell()
