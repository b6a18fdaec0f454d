"""Backlogs: what waits for each model and how fast it is served, as gauges for Prometheus."""

import asyncio
import logging

from headrace_api.directory import ModelDirectory
from headrace_api.metrics import Metrics
from headrace_shared.errors import UnavailableError
from headrace_shared.queue.requests import RequestQueue
from headrace_shared.queue.status import Backlog

log = logging.getLogger(__name__)

_REFRESH_S = 3.0


class BacklogGauges:
    """Refreshed in the background, so that a scrape never waits for Redis. A model that is gone loses its gauges."""

    def __init__(self, queue: RequestQueue, directory: ModelDirectory, metrics: Metrics) -> None:
        self._queue = queue
        self._directory = directory
        self._metrics = metrics
        self._shown: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._follow(), name="backlog-gauges")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            try:
                await self._refresh()
            except UnavailableError:
                pass  # the directory says so already
            except Exception:
                log.exception("backlogs cannot be refreshed")
            await asyncio.sleep(_REFRESH_S)

    async def _refresh(self) -> None:
        cards = {listed.model.card.queue: listed.model.card for listed in self._directory.listed()}
        slots = {listed.model.card.queue: listed.slots for listed in self._directory.listed()}
        for queue, card in cards.items():
            backlog = await self._queue.backlog(queue)
            self._show(card.name, backlog, slots[queue])
        names = {card.name for card in cards.values()}
        for gone in self._shown - names:
            for gauge in self._metrics.backlog_gauges:
                gauge.remove(gone)
        self._shown = names

    def _show(self, model: str, backlog: Backlog, slots: int) -> None:
        metrics = self._metrics
        metrics.queued_requests.labels(model).set(backlog.queued_requests)
        metrics.queued_tokens.labels(model).set(backlog.queued_tokens)
        metrics.queue_running.labels(model).set(backlog.running)
        metrics.queue_oldest.labels(model).set(backlog.oldest_ms / 1000)
        metrics.service_rate.labels(model).set(backlog.tokens_per_s or 0)
        metrics.slots.labels(model).set(slots)
