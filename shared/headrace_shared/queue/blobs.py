"""BlobStore: tokenizers and templates by digest, so that API nodes need no model files."""

import hashlib
import logging

from redis.asyncio import Redis

from headrace_shared.queue import keys
from headrace_shared.queue.client import reaching

log = logging.getLogger(__name__)

KEEP_MS = 24 * 3600 * 1000
"""Lifetime of blobs and cards that nobody announces any more."""
_TRANSFER_TIMEOUT_S = 30.0


class BlobStore:
    """Every method raises UnavailableError when Redis is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def put(self, data: bytes) -> str:
        """Store ``data`` for a day, or renew it; returns its digest (64 hexadecimal digits)."""
        digest = hashlib.sha256(data).hexdigest()
        if not await self.refresh(digest):
            async with reaching(self._redis, _TRANSFER_TIMEOUT_S):
                await self._redis.set(keys.blob(digest), data, px=KEEP_MS)
        return digest

    async def get(self, digest: str) -> bytes | None:
        """The bytes with that digest; None when Redis does not have them."""
        async with reaching(self._redis, _TRANSFER_TIMEOUT_S):
            data: bytes | None = await self._redis.get(keys.blob(digest))
        if data is not None and hashlib.sha256(data).hexdigest() != digest:
            log.error("blob does not match its digest", extra={"digest": digest})
            return None
        return data

    async def refresh(self, digest: str) -> bool:
        """Keep a blob for another day; False when it is gone."""
        async with reaching(self._redis):
            return bool(await self._redis.pexpire(keys.blob(digest), KEEP_MS))
