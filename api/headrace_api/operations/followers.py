"""Followers: requests whose client does not wait, followed for the metrics, the rates, and in case Redis forgets them."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing

from headrace_api.dispatch import Generation, merge
from headrace_shared.errors import HeadraceError

log = logging.getLogger(__name__)


class Followers:
    """Needed by nobody who fetches an answer: the log is in Redis, whoever reads it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def follow(self, generations: Sequence[Generation], on_end: Callable[[], None]) -> None:
        """To their end, which calls ``on_end``. Closes them."""
        task = asyncio.create_task(_follow(generations, on_end), name="follow-detached")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """The requests go on."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _follow(generations: Sequence[Generation], on_end: Callable[[], None]) -> None:
    try:
        async with aclosing(merge(generations)) as merged:
            async for _ in merged:
                pass
    except HeadraceError as error:
        log.info("detached request not followed to its end", extra={"reason": error.message})
    finally:
        for generation in generations:
            generation.keep()
            await generation.aclose()
        on_end()
