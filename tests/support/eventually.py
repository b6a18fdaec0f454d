"""Waiting for what another process or thread will do."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable


async def eventually(condition: Callable[[], bool | Awaitable[bool]], within_s: float = 5.0) -> None:
    """Return as soon as ``condition()`` is true. Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while True:
            met = condition()
            if await met if inspect.isawaitable(met) else met:
                return
            await asyncio.sleep(0.02)
