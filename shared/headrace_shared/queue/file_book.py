"""FileBook: which files there are, whose they are, and when they go. Their bytes are elsewhere."""

from collections.abc import Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis

from headrace_shared.clock import wall_ms, wall_s
from headrace_shared.errors import InvalidRequestError, NotFoundError
from headrace_shared.queue import keys
from headrace_shared.queue.client import reaching
from headrace_shared.queue.pages import Page, page_of
from headrace_shared.queue.scripts import Script, run_script

_UPLOAD_S = 24 * 3600
"""Bytes that were not registered by then never will be."""


class FileRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file that is complete. Times are seconds since 1970."""

    id: str
    owner: str
    """Tenant that may see it; empty when the server asks for no key."""
    filename: str
    purpose: str
    bytes: int
    created_at: int
    expires_at: int

    @property
    def path(self) -> str:
        """Where its bytes are in the store."""
        return path_of(self.id)


def path_of(file_id: str) -> str:
    return f"files/{file_id}"


class FileBook:
    """Every method raises UnavailableError when Redis is away, and may be called again then."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # its annotations take a client that waits for one that does not

    async def begin(self, file_id: str) -> None:
        """Its bytes are about to be written; should it never be added, they are thrown away."""
        async with reaching(self._redis):
            await self._redis.zadd(keys.trash(), {path_of(file_id): wall_ms() + _UPLOAD_S * 1000})

    async def add(self, record: FileRecord, most_bytes: int | None = None) -> None:
        """Its bytes are there. Raises InvalidRequestError when its owner would have more than ``most_bytes``."""
        added = await run_script(
            self._redis,
            Script.FILE_ADD,
            keys.BATCHES,
            record.id,
            record.owner,
            msgspec.msgpack.encode(record),
            record.bytes,
            wall_ms(),
            record.expires_at,
            "" if most_bytes is None else most_bytes,
        )
        if not added:
            raise InvalidRequestError(
                f"file: with its {record.bytes} bytes your files would be larger than the {most_bytes} bytes that you "
                "may store; delete some first.",
                param="file",
            )

    async def get(self, file_id: str, owner: str) -> FileRecord:
        """Raises NotFoundError; what belongs to others is not told from what does not exist."""
        async with reaching(self._redis):
            packed = await self._redis.hget(keys.file(file_id), "d")
        record = _read(packed)
        if record is None or record.owner != owner or record.expires_at <= wall_s():
            raise NotFoundError(f"There is no file {file_id[:80]!r}, or it is no longer kept.")
        return record

    async def listed(self, owner: str, page: Page, purpose: str | None) -> tuple[list[FileRecord], bool]:
        """An owner's files of one purpose, or of all, and whether there are more. Raises InvalidRequestError."""
        return await page_of(self._redis, keys.files_of(owner), page, lambda ids: self._some(ids, purpose))

    async def _some(self, ids: Sequence[str], purpose: str | None) -> list[FileRecord | None]:
        async with reaching(self._redis), self._redis.pipeline(transaction=False) as pipeline:
            for file_id in ids:
                pipeline.hget(keys.file(file_id), "d")
            found = [_read(packed) for packed in await pipeline.execute()]
        now_s = wall_s()
        return [
            record if record and record.expires_at > now_s and purpose in (None, record.purpose) else None
            for record in found
        ]

    async def remove(self, file_id: str) -> bool:
        """Whether it was there; its bytes are to be deleted then. Raises InvalidRequestError while a batch reads it."""
        code = await run_script(self._redis, Script.FILE_REMOVE, keys.BATCHES, file_id, wall_ms())
        if code == 2:
            raise InvalidRequestError(
                f"The file {file_id[:80]!r} is the input of a batch that is not done; cancel that first."
            )
        return bool(code == 1)

    async def expired(self, limit: int) -> list[str]:
        """Files whose time is over."""
        async with reaching(self._redis):
            found = await self._redis.zrangebyscore(keys.file_expiry(), "-inf", wall_s(), start=0, num=limit)
        return [file_id.decode() for file_id in found]

    async def rubbish(self, limit: int) -> list[str]:
        """Paths in the store that nothing refers to; one that ends with a slash is all that is below it."""
        async with reaching(self._redis):
            found = await self._redis.zrangebyscore(keys.trash(), "-inf", wall_ms(), start=0, num=limit)
            paths = [path.decode() for path in found]
            async with self._redis.pipeline(transaction=False) as pipeline:
                for path in paths:
                    pipeline.exists(keys.file(path.removeprefix("files/")))
                known = await pipeline.execute()
            # Written again by somebody who was late in ending a batch, and has died of it.
            kept = [path for path, exists in zip(paths, known, strict=True) if exists]
            if kept:
                await self._redis.zrem(keys.trash(), *kept)
        return [path for path in paths if path not in kept]

    async def thrown_away(self, path: str) -> None:
        """There is nothing at this path any more."""
        async with reaching(self._redis):
            await self._redis.zrem(keys.trash(), path)


def _read(packed: bytes | None) -> FileRecord | None:
    return None if packed is None else msgspec.msgpack.decode(packed, type=FileRecord)
