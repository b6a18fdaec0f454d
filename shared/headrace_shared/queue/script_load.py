"""How much of its time Redis spends in our scripts, as it tells of itself."""

from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from headrace_shared.queue.client import reaching
from headrace_shared.queue.cluster import ClusterRedis

_STATISTICS = ("cmdstat_evalsha", "cmdstat_eval")


@dataclass(frozen=True, slots=True)
class ScriptLoad:
    """Since the server has started; of all primaries of a cluster together."""

    calls: int
    seconds: float
    """While a script runs, its server does nothing else."""


async def script_load(redis: Redis) -> ScriptLoad | None:
    """None where the server does not tell. Raises UnavailableError when it is away."""
    async with reaching(redis):
        servers = await redis.nodes.servers() if isinstance(redis, ClusterRedis) else [redis]
    calls, microseconds = 0, 0
    for server in servers:
        async with reaching(server):
            try:
                told: dict[str, Any] = await server.info("commandstats")
            except ResponseError as error:
                # By an access list, or because a managed service has taken the command away.
                if any(word in str(error).lower() for word in ("permission", "unknown")):
                    return None
                raise
        for name in _STATISTICS:
            calls += int(told.get(name, {}).get("calls", 0))
            microseconds += int(told.get(name, {}).get("usec", 0))
    return ScriptLoad(calls, microseconds / 1e6)
