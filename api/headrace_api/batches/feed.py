"""Feed: the items of one batch on their way through the queue."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass

from headrace_api.batches.lines import Line, raw_lines, read_line
from headrace_api.batches.metrics import BatchMetrics
from headrace_api.batches.results import Result, SegmentWriter, is_done
from headrace_api.batches.window import Window
from headrace_api.operations import items
from headrace_api.operations.batches import ENDPOINTS
from headrace_api.operations.items import Item, NotNowError
from headrace_api.operations.services import Services
from headrace_shared.clock import wall_ms
from headrace_shared.queue.batch_book import BatchSpec
from headrace_shared.queue.file_book import path_of

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 15.0
_LAST_WORD_S = 30.0
"""How much longer than the batch its requests may take: it ends them itself, unless nobody works on it."""
_STOPPED_AT_ONCE = 32
_LATE_SHARE = 0.25
"""Of a batch's time: when less is left, its items become more urgent."""


@dataclass(frozen=True, slots=True)
class Order:
    """What all items of a batch have in common."""

    spec: BatchSpec
    begun_s: int
    """When work on it began; what its answers were created at."""

    def request_id(self, number: int, attempt: int = 1) -> str:
        """On the queue. It says which item it is, so that whoever takes over finds what is running."""
        base = f"{self.spec.id}-{number + 1}"
        return base if attempt == 1 else f"{base}.{attempt}"

    def left_s(self) -> float:
        return self.spec.expires_at - wall_ms() / 1000

    def priority(self) -> int:
        """Rises evenly in the last quarter of the batch's time."""
        spec, late_s = self.spec, (self.spec.expires_at - self.spec.created_at) * _LATE_SHARE
        share = min(1.0, max(0.0, self.left_s() / late_s))
        return spec.late_priority + round((spec.priority - spec.late_priority) * share)

    def item(self, line: Line, attempt: int) -> Item:
        spec = self.spec
        return Item(
            endpoint=ENDPOINTS[spec.endpoint],
            request_id=self.request_id(line.number, attempt),
            body=line.body,
            created=self.begun_s,
            owner=spec.owner,
            tenant=spec.tenant,
            priority=self.priority(),
            usual_priority=spec.priority,
            timeout_s=max(0.0, self.left_s()) + _LAST_WORD_S,
            linked=spec.traceparent,
        )


async def input_lines(spec: BatchSpec, services: Services) -> AsyncIterator[tuple[int, bytes]]:
    """Raises MissingBytesError, UnavailableError."""
    chunks = services.store.read(path_of(spec.input_file_id))
    async for numbered in raw_lines(chunks, services.settings.max_body_bytes):
        yield numbered


class Feed:
    """Has every item answered, some at a time; results go to ``writer``."""

    def __init__(
        self, order: Order, services: Services, window: Window, writer: SegmentWriter, metrics: BatchMetrics
    ) -> None:
        self._order = order
        self._services = services
        self._window = window
        self._writer = writer
        self._metrics = metrics
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, done: bytes) -> None:
        """All items whose lines are not in ``done``, to their ends. Cancelled, requests go on in the queue.

        Raises MissingBytesError, UnavailableError when the input cannot be read.
        """
        spec = self._order.spec
        try:
            async for number, raw in input_lines(spec, self._services):
                if is_done(done, number):
                    continue
                await self._window.enter(spec.tenant, spec.id)
                task = asyncio.create_task(self._answer(read_line(number, raw)))
                self._running.add(task)
                task.add_done_callback(self._left)
            while self._running:
                await asyncio.wait(set(self._running))
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def _left(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._window.leave()

    async def _answer(self, line: Line) -> None:
        attempt, waits = 1, 0
        while True:
            item = self._order.item(line, attempt)
            try:
                answer = await items.answer(item, self._services)
            except NotNowError as error:
                self._metrics.put_off.labels("ended" if error.spent else "refused").inc()
                attempt += error.spent
                wait_s = min(_FIRST_WAIT_S * 2**waits, _LONGEST_WAIT_S)
                waits += 1
                await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads retries, no secret
                continue
            self._writer.put(Result.of_answer(line.number, line.custom_id, item.request_id, answer))
            return


class Rest:
    """What is left of a batch that ends before its items do."""

    def __init__(self, order: Order, services: Services, writer: SegmentWriter) -> None:
        self._order = order
        self._services = services
        self._writer = writer

    async def close(self, done: bytes, code: str, message: str) -> None:
        """Say of every item that has no result that it got none, and end its request if it may have one.

        Raises MissingBytesError, UnavailableError.
        """
        # Lines are fed in order: what runs, or has ended without counting, is among the first without a result.
        may_run = 2 * self._services.settings.batch_window + 1000
        running: list[int] = []
        async for number, raw in input_lines(self._order.spec, self._services):
            if is_done(done, number):
                continue
            if may_run > 0:
                may_run -= 1
                running.append(number)
            if len(running) >= _STOPPED_AT_ONCE:
                await asyncio.gather(*map(self._stop, running))
                running.clear()
            line = read_line(number, raw)
            self._writer.put(Result.not_done(number, line.custom_id, self._order.request_id(number), code, message))
        await asyncio.gather(*map(self._stop, running))

    async def _stop(self, number: int) -> None:
        attempt = 1
        while await items.stop(self._order.request_id(number, attempt), self._services):
            attempt += 1
