"""ByteStore: where the bytes of files are, a folder or a bucket."""

import asyncio
import logging
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, ObjectStore, S3Store

from headrace_shared.errors import UnavailableError

if TYPE_CHECKING:
    from obstore.store import RetryConfig

log = logging.getLogger(__name__)

_CHUNK_BYTES = 2 * 1024 * 1024
_PART_BYTES = 8 * 1024 * 1024
"""Of an upload to a bucket, which takes 10,000 of them."""
_PARTS_AT_ONCE = 2
_RETRIES: "RetryConfig" = {"max_retries": 4, "retry_timeout": timedelta(seconds=30)}
"""Of one call to a bucket; whoever needs it for longer asks again."""


class MissingBytesError(Exception):
    """There is nothing at that path."""


class ByteStore:
    """Bytes by path. What is written is there as a whole or not at all.

    Every method raises UnavailableError when the store cannot be reached or written to.
    """

    def __init__(self, place: str) -> None:
        """``place``: a folder, made when it is needed, or ``s3://bucket/prefix``, with credentials from ``AWS_*``."""
        self._place = place
        self._folder = None if place.startswith("s3://") else Path(place).expanduser().absolute()
        self._store: ObjectStore | None = None

    async def write(self, path: str, chunks: AsyncIterable[bytes]) -> int:
        """Returns how many bytes it were. What ``chunks`` raises comes out as it is, and nothing is kept then."""
        source = _Counted(chunks)
        try:
            with _reaching():
                # The library hides what a source raises behind an error of its own.
                await obstore.put_async(
                    self._opened(), path, source, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE
                )
                if self._folder is not None:
                    await asyncio.to_thread(_sync, self._folder / path)
        except (UnavailableError, MissingBytesError) as error:
            if source.failure is not None:
                raise source.failure from None
            raise UnavailableError("The store of files cannot be used just now.") from error
        return source.bytes

    async def read(self, path: str) -> AsyncIterator[bytes]:
        """All bytes in pieces, each asked for when it is wanted: its reader may take hours. Raises MissingBytesError."""
        store = self._opened()
        with _reaching():
            size = (await obstore.head_async(store, path))["size"]
        for start in range(0, size, _CHUNK_BYTES):
            with _reaching():
                chunk = await obstore.get_range_async(store, path, start=start, end=min(start + _CHUNK_BYTES, size))
            yield bytes(chunk)

    async def delete(self, path: str) -> None:
        """Also when there is nothing. A path that ends with a slash: all that is below it."""
        store = self._opened()
        paths = [path]
        if path.endswith("/"):
            with _reaching():
                paths = [each["path"] async for page in obstore.list(store, path) for each in page]
        for each in paths:
            try:
                with _reaching():
                    await obstore.delete_async(store, each)
            except MissingBytesError:
                pass
        if path.endswith("/") and self._folder is not None:
            await asyncio.to_thread(_remove_folder, self._folder / path)

    def _opened(self) -> ObjectStore:
        if self._store is None:
            with _reaching():
                if self._folder is None:
                    self._store = S3Store.from_url(self._place, retry_config=_RETRIES)
                else:
                    self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                    self._store = LocalStore(self._folder)
        return self._store


class _Counted:
    """Passes chunks on; remembers how many bytes they had, and what ended them early."""

    def __init__(self, chunks: AsyncIterable[bytes]) -> None:
        self._chunks = aiter(chunks)
        self.bytes = 0
        self.failure: BaseException | None = None

    def __aiter__(self) -> "_Counted":
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            raise
        except BaseException as error:
            self.failure = error
            raise
        self.bytes += len(chunk)
        return chunk


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except (NotFoundError, FileNotFoundError) as error:
        raise MissingBytesError from error
    except (BaseError, OSError) as error:
        log.warning("store of files cannot be used", extra={"reason": str(error)[:500]})
        raise UnavailableError("The store of files cannot be used just now.") from error


def _sync(path: Path) -> None:
    """A result that counts must not be lost with the machine."""
    for each in (path, path.parent):
        handle = os.open(each, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove_folder(path: Path) -> None:
    try:
        path.rmdir()
    except OSError:
        return  # not there, or somebody has just written into it
