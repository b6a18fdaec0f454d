"""Where a batch worker shows what it counts and measures, and whether it is well."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from headrace_api.batches.metrics import BatchMetrics, OwnSeries
from headrace_api.batches.worker import BatchWorker
from headrace_api.operations.services import Services
from headrace_shared.clock import mono_s
from headrace_shared.telemetry.exposition import Exposition
from headrace_shared.telemetry.listener import Listener
from headrace_shared.telemetry.tasks import in_background

log = logging.getLogger(__name__)

_PULSE_S = 1.0
_HUNG_S = 60.0


class PortError(Exception):
    """The port of its metrics cannot be listened on."""


@asynccontextmanager
async def shown(worker: BatchWorker, services: Services) -> AsyncIterator[None]:
    """Its metrics, where the settings want them. Raises PortError."""
    host, port = services.settings.batch_metrics_host, services.settings.batch_metrics_port
    if port < 0:
        yield
        return
    own, pulse = OwnSeries(services.metrics), _Pulse()
    metrics = worker.metrics
    exposition = Exposition(metrics.registry, [BatchMetrics], [worker, own], before=metrics.settle)
    try:
        listener = Listener(host, port, exposition, pulse.ill)
    except OSError as error:
        reason = error.strerror or str(error)
        raise PortError(f"batch_metrics_port: cannot listen on {host}:{port}: {reason}") from None
    log.info("metrics shown", extra={"host": host, "port": listener.port})
    try:
        async with in_background(pulse.run()):
            yield
    finally:
        listener.close()


class _Pulse:
    """Tells whether the event loop goes round."""

    def __init__(self) -> None:
        self._beat_s = mono_s()

    async def run(self) -> None:
        while True:
            self._beat_s = mono_s()
            await asyncio.sleep(_PULSE_S)

    def ill(self) -> str | None:
        return "the event loop hangs\n" if mono_s() - self._beat_s > _HUNG_S else None
