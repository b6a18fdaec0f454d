"""Janitor: cancels requests that nobody waits for any more."""

import asyncio
import contextlib
import logging
from dataclasses import dataclass

from headrace_shared.clock import mono_s
from headrace_shared.errors import UnavailableError
from headrace_shared.queue.requests import RequestQueue

log = logging.getLogger(__name__)

_CANCEL_RETRY_S = 0.5
_CANCEL_FOR_S = 60.0
"""After an outage longer than that the workers have given up by themselves."""


@dataclass(frozen=True, slots=True)
class _Order:
    queue: str
    request_id: str
    given_s: float


class Janitor:
    """Works in a task of its own: whoever gives up a request must not wait for Redis."""

    def __init__(self, queue: RequestQueue) -> None:
        self._queue = queue
        self._orders: asyncio.Queue[_Order] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._work(), name="dispatch-janitor")

    def cancel(self, queue: str, request_id: str) -> None:
        self._orders.put_nowait(_Order(queue, request_id, mono_s()))

    async def close(self) -> None:
        """Give the orders that are left two seconds."""
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                await self._orders.join()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            order = await self._orders.get()
            try:
                await self._cancel(order)
            finally:
                self._orders.task_done()

    async def _cancel(self, order: _Order) -> None:
        while mono_s() - order.given_s < _CANCEL_FOR_S:
            try:
                await self._queue.cancel(order.queue, order.request_id, "the client went away")
            except UnavailableError:
                await asyncio.sleep(_CANCEL_RETRY_S)
            else:
                return
        log.warning("request could not be cancelled", extra={"request_id": order.request_id})
