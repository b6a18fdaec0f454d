"""Nodes: what API processes tell each other of themselves."""

from redis.asyncio import Redis

from headrace_shared.queue import keys
from headrace_shared.queue.scripts import Script, run_script


class Nodes:
    """``tell`` raises UnavailableError when Redis is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def tell(self, node: str, state: bytes, keep_ms: int) -> dict[str, bytes]:
        """Tell this node's state, and learn those of the others; each is forgotten after its ``keep_ms``."""
        told: list[bytes] = await run_script(self._redis, Script.NODES, keys.FLEET, node, state, keep_ms)
        states = {name.decode(): data for name, data in zip(told[::2], told[1::2], strict=True)}
        states.pop(node, None)
        return states
