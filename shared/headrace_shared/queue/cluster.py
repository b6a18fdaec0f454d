"""A Redis Cluster behind the interface of one server.

redis-py's own cluster client is not used: it follows ASK. While a slot is moved key by key, ASK sends a command to the
new owner, whose share of the keys is incomplete, and a script that begins there would write over what is still to come.
Here such a queue pauses until its slot has arrived. It also takes no turns among those who wait for a connection.
"""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from headrace_shared.queue.address import Host
from headrace_shared.queue.pool import FairPool
from headrace_shared.queue.topology import Endpoint, Watchers

_ASK_TIMEOUT_S = 0.5
_MOST_ROUNDS = 5
_Command = tuple[tuple[Any, ...], dict[str, Any]]


class Cluster(Watchers):
    """Which primary has which slot, and a client for each. The Topology of its channels too."""

    by_slot = True
    ask_role = False  # a replica refers to its primary

    def __init__(self, seeds: list[Host], options: dict[str, Any]) -> None:
        super().__init__()
        self._seeds = seeds
        self._options = options
        self._clients: dict[Host, Redis] = {}
        self._endpoints: dict[Host, Endpoint] = {}
        self._owners: list[Host | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._looks = 0
        self._looking = asyncio.Lock()

    def home(self, channel: bytes) -> Endpoint | None:
        owner = self._owners[key_slot(channel)]
        return self._endpoint(owner) if owner else None

    def endpoints(self) -> set[Endpoint]:
        return {self._endpoint(host) for host in self._primaries()}

    async def refresh(self) -> None:
        """Ask any node who owns what. Raises RedisError, OSError or TimeoutError when none answers."""
        looks = self._looks
        async with self._looking:
            if self._looks != looks:
                return  # somebody else has just looked
            owners = await self._ask_any()
            self._looks += 1
            if owners != self._owners:
                self._owners = owners
                self.tell()

    async def owner(self, slot: int) -> tuple[Host, Redis]:
        """Raises RedisError, OSError or TimeoutError when that cannot be known."""
        if self._owners[slot] is None:
            await self.refresh()
        host = self._owners[slot]
        if host is None:
            raise RedisConnectionError("no server of the cluster has this slot")
        return host, self._client(host)

    async def servers(self) -> list[Redis]:
        """A client for each primary."""
        await self.refresh()
        return [self._client(host) for host in sorted(self._primaries())]

    async def redirected(self, slot: int, asked: Host, error: BaseException) -> bool:
        """True when ``error`` means that a slot has another owner than the one asked, who is known now."""
        if isinstance(error, ResponseError) and str(error).startswith("MOVED "):
            where, _, port = str(error).split(" ")[2].rpartition(":")
            self._owners[slot] = (where or asked[0], int(port))
            self.tell()
            return True
        if isinstance(error, RedisConnectionError | OSError):
            await self.refresh()
            return self._owners[slot] not in (None, asked)
        return False

    async def aclose(self) -> None:
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.aclose()

    def _primaries(self) -> set[Host]:
        return {owner for owner in self._owners if owner is not None}

    def _client(self, host: Host) -> Redis:
        client = self._clients.get(host)
        if client is None:
            pool = FairPool(host=host[0], port=host[1], **self._options)
            client = self._clients[host] = Redis.from_pool(pool)
        return client

    def _endpoint(self, host: Host) -> Endpoint:
        if host not in self._endpoints:
            self._endpoints[host] = Endpoint.of_pool(self._client(host).connection_pool)
        return self._endpoints[host]

    async def _ask_any(self) -> list[Host | None]:
        # In a random order: one that has lost touch with the others must not be believed for ever.
        known = random.sample(sorted(self._primaries()), len(self._primaries()))
        failure: Exception = RedisConnectionError("no server of the cluster answers")
        for host in dict.fromkeys([*known, *self._seeds]):
            try:
                async with asyncio.timeout(_ASK_TIMEOUT_S):
                    rows = await self._client(host).execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
            except (RedisError, OSError, TimeoutError) as error:
                failure = error
                continue
            if rows:
                return _read_slots(rows, host)
        raise failure


def _read_slots(rows: Sequence[Any], asked: Host) -> list[Host | None]:
    owners: list[Host | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
    for first, last, primary, *_ in rows:
        # A node that does not know its own name is the one that was asked.
        owner = (primary[0].decode() if primary[0] else asked[0], int(primary[1]))
        owners[first : last + 1] = [owner] * (last + 1 - first)
    return owners


def _slot(command: Sequence[Any]) -> int:
    """By its first key; the others must be of the same slot."""
    key = command[3] if command[0] in ("EVALSHA", "EVAL") else command[1]
    return key_slot(key if isinstance(key, bytes) else str(key).encode())


class ClusterRedis(Redis):
    """Commands with at least one key go to the server that has it; there are no others, and no transactions."""

    def __init__(self, cluster: Cluster) -> None:
        # The pool is one that redis-py asks for its encoder; it never connects.
        super().__init__(connection_pool=FairPool(1))
        self.nodes = cluster

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        slot = _slot(args)
        for _ in range(_MOST_ROUNDS):
            host, client = await self.nodes.owner(slot)
            try:
                return await client.execute_command(*args, **options)  # type: ignore[no-untyped-call]
            except (RedisError, OSError) as error:
                if not await self.nodes.redirected(slot, host, error):
                    raise
        raise RedisConnectionError("the cluster does not settle")

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> "ClusterPipeline":
        if transaction:
            raise RedisError("no transactions on a cluster: what must happen at once is a script")
        return ClusterPipeline(self.nodes, self.response_callbacks)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await self.nodes.aclose()


class ClusterPipeline(Pipeline):
    """One round trip to each server that has some of the keys, all at the same time."""

    def __init__(self, cluster: Cluster, response_callbacks: Any) -> None:
        super().__init__(FairPool(1), response_callbacks, False, None)
        self._cluster = cluster

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands: list[_Command] = [(args, dict(options)) for args, options in self.command_stack]
        self.command_stack = []
        results: list[Any] = [None] * len(commands)
        todo = list(range(len(commands)))
        for _ in range(_MOST_ROUNDS):
            todo = await self._round(commands, todo, results)
            if not todo:
                break
        if raise_on_error:
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        return results

    async def _round(self, commands: list[_Command], todo: list[int], results: list[Any]) -> list[int]:
        """Run these commands; returns the ones that have to be run again elsewhere."""
        shares: dict[Host, list[int]] = {}
        clients: dict[Host, Redis] = {}
        for index in todo:
            host, clients[host] = await self._cluster.owner(_slot(commands[index][0]))
            shares.setdefault(host, []).append(index)
        await asyncio.gather(
            *(self._run(clients[host], [commands[i] for i in share], share, results) for host, share in shares.items())
        )
        again = []
        for host, share in shares.items():
            for index in share:
                result = results[index]
                if isinstance(result, Exception) and await self._cluster.redirected(
                    _slot(commands[index][0]), host, result
                ):
                    again.append(index)
        return again

    async def _run(self, client: Redis, commands: list[_Command], share: list[int], results: list[Any]) -> None:
        pipeline = client.pipeline(transaction=False)
        for args, options in commands:
            pipeline.pipeline_execute_command(*args, **options)  # type: ignore[no-untyped-call]
        try:
            answers = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as error:
            answers = [error] * len(share)
        for index, answer in zip(share, answers, strict=True):
            results[index] = answer
