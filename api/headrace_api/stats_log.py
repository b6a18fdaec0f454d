"""StatsLog: how busy this API node is, as a line in the log."""

import asyncio
import logging

from headrace_api.fleet_view import FleetView
from headrace_api.metrics import Metrics

log = logging.getLogger(__name__)

_EVERY_S = 10.0


class StatsLog:
    """Every ten seconds; an idle node tells so once."""

    def __init__(self, metrics: Metrics, fleet: FleetView) -> None:
        self._metrics = metrics
        self._fleet = fleet
        self._ended = 0.0
        self._idle = True

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            self._tell()

    def _tell(self) -> None:
        ended = self._metrics.generations.total
        in_hand = self._metrics.generations_in_hand()
        was_idle, self._idle = self._idle, in_hand == 0 and ended == self._ended
        ended_lately, self._ended = ended - self._ended, ended
        if self._idle and was_idle:
            return
        models = self._fleet.snapshot.models
        log.info(
            "statistics",
            extra={
                "requests_per_s": round(ended_lately / _EVERY_S, 2),
                "in_flight": in_hand,
                "queued": sum(model.backlog.queued_requests for model in models),
                "queued_tokens": sum(model.backlog.queued_tokens for model in models),
                "workers": sum(len(model.workers) for model in models),
            },
        )
