"""Pages of a list that is a sorted set of ids."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from redis.asyncio import Redis

from headrace_shared.errors import InvalidRequestError
from headrace_shared.queue.client import reaching

_LOOK_AT = 200

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list, the newest first or last."""

    limit: int
    after: str | None = None
    newest_first: bool = True


async def page_of(
    redis: Redis, key: str, page: Page, read: Callable[[Sequence[str]], Awaitable[list[T | None]]]
) -> tuple[list[T], bool]:
    """What ``read`` makes of the ids after ``page.after``, and whether there is more; what it makes None is left out.

    Raises InvalidRequestError when ``after`` is not in the list.
    """
    start = 0
    if page.after is not None:
        async with reaching(redis):
            rank = await (redis.zrevrank if page.newest_first else redis.zrank)(key, page.after)
        if rank is None:
            raise InvalidRequestError(f"after: there is no {page.after[:80]!r} in this list.", param="after")
        start = rank + 1
    found: list[T] = []
    while len(found) <= page.limit:
        async with reaching(redis):
            ids = await redis.zrange(key, start, start + _LOOK_AT - 1, desc=page.newest_first)
        found += [each for each in await read([each.decode() for each in ids]) if each is not None]
        start += len(ids)
        if len(ids) < _LOOK_AT:
            break
    return found[: page.limit], len(found) > page.limit
