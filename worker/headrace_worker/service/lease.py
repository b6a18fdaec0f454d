"""Lease: kept while the engine makes progress, so that a hung device loses its requests although this process still runs.

Each renewal also asks what a request that says nothing, as in a long prefill, cannot learn from the answers to its frames:
whether it was cancelled, should the message about it have been lost, and whether anybody listens.
"""

import asyncio
import logging

from headrace_shared.errors import UnavailableError
from headrace_shared.queue.claims import WorkerQueue
from headrace_worker.service.bridge import EngineThread
from headrace_worker.service.outbox import Outbox
from headrace_worker.service.pump import Pump

log = logging.getLogger(__name__)

_HUNG_S = 60.0
"""A step that takes longer than this is taken for a hung device."""


class Lease:
    """Beats three times per lease."""

    def __init__(self, queue: WorkerQueue, engine: EngineThread, pump: Pump, outbox: Outbox) -> None:
        self._queue = queue
        self._engine = engine
        self._pump = pump
        self._outbox = outbox

    async def run(self, lease_ms: int) -> None:
        """Renew until cancelled."""
        while True:
            if self._engine.busy_s() < _HUNG_S:
                await self._beat()
            await asyncio.sleep(lease_ms / 3000)

    async def _beat(self) -> None:
        try:
            renewal = await self._queue.renew(self._outbox.silent())
        except UnavailableError as error:
            log.warning("Redis unreachable", extra={"while": "renewing the lease", "error": error.message})
            self._outbox.forgive_silence()
            return
        for request_id, status in renewal.condemned.items():
            self._pump.give_up(request_id, status)
        self._outbox.hear(renewal.listeners)
