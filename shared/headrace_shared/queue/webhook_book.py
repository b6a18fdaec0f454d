"""WebhookBook: whose end has still to be told to somebody outside.

A batch comes into it in the script that ends the batch, and leaves it when its end was told, or was tried to be for
long enough.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from redis.asyncio import Redis

from headrace_shared.queue import keys
from headrace_shared.queue.scripts import Script, run_script


class WebhookOutcome(StrEnum):
    """Of one attempt."""

    DELIVERED = "delivered"
    FAILED = "failed"
    """It is tried again."""
    GIVEN_UP = "given_up"
    """Failed for the last time."""


@dataclass(frozen=True, slots=True)
class DueWebhook:
    """``attempt`` counts from 1."""

    batch_id: str
    attempt: int


class WebhookBook:
    """Every method raises UnavailableError when Redis is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis

    async def take(self, limit: int, lease_ms: int) -> list[DueWebhook]:
        """Those that are to be told now. Nobody else gets them for ``lease_ms``."""
        taken = await run_script(self._redis, Script.WEBHOOK_TAKE, keys.BATCHES, limit, lease_ms)
        return [DueWebhook(batch_id.decode(), int(attempt)) for batch_id, attempt in taken]

    async def note(self, batch_id: str, outcome: WebhookOutcome, error: str = "", wait_ms: int | None = None) -> None:
        """What became of an attempt; ``wait_ms``: until the next one, None: there is none."""
        wait = "" if wait_ms is None else wait_ms
        await run_script(self._redis, Script.WEBHOOK_NOTE, keys.BATCHES, batch_id, outcome, error, wait)
