"""Janitor: cancels requests that nobody waits for any more."""

import asyncio
import contextlib
import logging
from dataclasses import dataclass

from headrace_api.metrics import Metrics
from headrace_shared.clock import mono_s
from headrace_shared.errors import UnavailableError
from headrace_shared.queue.requests import CancelOutcome, RequestQueue

log = logging.getLogger(__name__)

_CANCEL_RETRY_S = 0.5
_CANCEL_FOR_S = 60.0
"""After an outage longer than that the workers have given up by themselves."""
_UNHEARD_S = 0.15
"""Redis learns with a delay that this process does not listen any more."""
_SECOND_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class _Order:
    queue: str
    request_id: str
    given_s: float
    looks: int = 2


class Janitor:
    """Works in a task of its own: whoever gives up a request must not wait for Redis."""

    def __init__(self, queue: RequestQueue, metrics: Metrics) -> None:
        self._queue = queue
        self._cancelled_in_queue = metrics.cancellations.labels("queued")
        self._orders: asyncio.Queue[_Order] = asyncio.Queue()
        self._later: dict[asyncio.TimerHandle, _Order] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._work(), name="dispatch-janitor")

    def cancel(self, queue: str, request_id: str, after_s: float) -> None:
        """Cancel the request that late, unless somebody listens to it then: here, or on any other node."""
        self._give(_Order(queue, request_id, mono_s()), max(after_s, _UNHEARD_S))

    async def close(self) -> None:
        """Give the orders that are left two seconds; those that wait for their time are not worth waiting for."""
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                await asyncio.sleep(_UNHEARD_S if self._later else 0)
                for timer, order in self._later.items():
                    timer.cancel()
                    self._orders.put_nowait(order)
                self._later.clear()
                await self._orders.join()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _give(self, order: _Order, after_s: float) -> None:
        def due() -> None:
            del self._later[timer]
            self._orders.put_nowait(order)

        timer = asyncio.get_running_loop().call_later(after_s, due)
        self._later[timer] = order

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
                outcome = await self._queue.cancel(
                    order.queue, order.request_id, "the client went away", unless_heard=True
                )
            except UnavailableError:
                await asyncio.sleep(_CANCEL_RETRY_S)
            else:
                if outcome is CancelOutcome.CANCELLED:
                    self._cancelled_in_queue.inc()
                # Whoever else listens will see to it; but what was heard may have been this process' own subscription.
                if outcome is CancelOutcome.HEARD and order.looks > 1:
                    self._give(_Order(order.queue, order.request_id, order.given_s, order.looks - 1), _SECOND_LOOK_S)
                return
        log.warning("request could not be cancelled", extra={"request_id": order.request_id})
