"""What clients asked for: reading the Asks that are kept beside their jobs, and the idempotency keys that name them."""

import logging
from collections.abc import Sequence

import msgspec
from redis.asyncio import Redis

from headrace_shared.protocol.ask import Ask
from headrace_shared.protocol.codec import ProtocolVersionError, decode_ask
from headrace_shared.queue import keys
from headrace_shared.queue.client import reaching

log = logging.getLogger(__name__)


async def find_ask(redis: Redis, queues: Sequence[str], request_id: str) -> tuple[str, Ask] | None:
    """The Ask with that id and the queue it is on, in one round trip; None when none of these has it."""
    async with reaching(redis):
        pipeline = redis.pipeline(transaction=False)
        for queue in queues:
            pipeline.hget(keys.ask(queue, request_id), "ask")
        found: list[bytes | None] = await pipeline.execute() if queues else []
    for queue, data in zip(queues, found, strict=True):
        if data is not None and (ask := _decode(request_id, data)) is not None:
            return queue, ask
    return None


async def read_holder(redis: Redis, queue: str, digest: str, fingerprint: str) -> tuple[str, bool] | None:
    """Which request an idempotency key belongs to, and whether its body had this fingerprint; None: it is free.

    The request's id is that of its Ask, or of its job when it has none.
    """
    async with reaching(redis):
        owner, stored = await redis.hmget(keys.idempotency(queue, digest), ["rid", "print"])  # type: ignore[misc]
        if owner is None:
            return None
        names = ["state", "cancel", "ask"]
        state, cancel, ask = await redis.hmget(keys.request(queue, owner.decode()), names)  # type: ignore[misc]
    if state is None or cancel is not None:
        return None
    return (ask or owner).decode(), stored == fingerprint.encode()


def _decode(request_id: str, data: bytes) -> Ask | None:
    try:
        return decode_ask(data)
    except (ProtocolVersionError, msgspec.DecodeError) as error:
        log.error("undecodable ask", extra={"request_id": request_id, "error": str(error)})
        return None
