"""BatchWorker: takes batches up, and looks after what is left of those that are over.

arq hands batches to workers and rings the clock. A batch is not one of its jobs from beginning to end: arq would give a
job of a killed worker to another one only after the longest time that a job may take, here days. So its job only takes
the batch's lease, which ends seconds after its owner has fallen silent.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from typing import Any

import arq.worker
from arq import Worker, cron, func
from arq.worker import Function
from prometheus_client.metrics_core import Metric

from headrace_api.batches.metrics import BatchMetrics
from headrace_api.batches.notices import Notices
from headrace_api.batches.run import BatchRun
from headrace_api.batches.window import Window
from headrace_api.operations.services import Services
from headrace_shared.errors import InvalidRequestError, UnavailableError
from headrace_shared.queue.batch_jobs import QUEUE, TAG, WORK, decode, encode

# arq names this key in the transaction that ends a job; on a cluster it has to be where the job's other keys are.
arq.worker.abort_jobs_ss = f"arq:abort:{TAG}"  # type: ignore[attr-defined]

log = logging.getLogger(__name__)

_MOST_BATCHES = 64
_LOOK_EVERY_S = 2
_NOTIFY_SECONDS = set(range(1, 60, 2))
_SWEEP_SECOND = 7
_SWEPT_AT_ONCE = 1000
_RETRY_S = 1.0
_JOB_TIMEOUT_S = 60


class BatchWorker:
    """One per process."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._window = Window(services.settings.batch_window)
        self._notices = Notices(services)
        self._name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._runs: dict[str, asyncio.Task[None]] = {}
        self.metrics = BatchMetrics()

    def collect(self) -> Iterator[Metric]:
        """Of its metrics what is read when it is asked for."""
        yield BatchMetrics.held.family([((), len(self._runs))])
        states = {"used": self._window.used, "free": self._window.free}
        yield BatchMetrics.places.family(((state,), places) for state, places in states.items())

    async def run(self) -> None:
        """Until it is cancelled; batches that it has are let go of then."""
        try:
            while True:
                with contextlib.suppress(Exception):
                    await self._serve_jobs()
                # Redis is away; batches that are worked on see to that themselves.
                await asyncio.sleep(_RETRY_S)
        finally:
            runs = list(self._runs.values())
            for run in runs:
                run.cancel()
            await asyncio.gather(*runs, return_exceptions=True)

    async def _serve_jobs(self) -> None:
        worker = Worker(
            self._functions(),
            queue_name=QUEUE,
            cron_jobs=[
                cron(self._look, name=f"{TAG}look", second=set(range(0, 60, _LOOK_EVERY_S)), run_at_startup=True),
                cron(self._notify, name=f"{TAG}notify", second=_NOTIFY_SECONDS),
                cron(self._sweep, name=f"{TAG}sweep", second=_SWEEP_SECOND),
            ],
            redis_pool=await self._services.batch_jobs.client(),
            handle_signals=False,
            job_timeout=_JOB_TIMEOUT_S,
            keep_result=0,
            job_serializer=encode,
            job_deserializer=decode,
            log_results=False,
        )
        try:
            await worker.async_run()
        except Exception as error:
            log.warning("jobs cannot be taken", extra={"reason": str(error)})
            raise
        finally:
            # Its own close would close our connections too.
            if worker.main_task is not None:
                worker.main_task.cancel()
            for task in worker.tasks.values():
                task.cancel()
            await asyncio.gather(*worker.tasks.values(), return_exceptions=True)

    def _functions(self) -> list[Function]:
        return [func(self._take_up, name=WORK, max_tries=1)]

    async def _take_up(self, ctx: dict[Any, Any], batch_id: str) -> None:
        if len(self._runs) >= _MOST_BATCHES or batch_id in self._runs:
            return
        lease_ms = round(self._services.settings.batch_lease_s * 1000)
        epoch = await self._services.batches.take(batch_id, self._name, lease_ms)
        if epoch is None:
            return
        log.info("batch taken up", extra={"batch": batch_id})
        self.metrics.taken.inc()
        run = asyncio.create_task(BatchRun(batch_id, epoch, self._services, self._window, self.metrics).run())
        self._runs[batch_id] = run
        run.add_done_callback(lambda _: self._runs.pop(batch_id, None))

    async def _look(self, ctx: dict[Any, Any]) -> None:
        """For batches that nobody works on: new ones whose job was lost, and those of workers that have died."""
        for batch_id in await self._services.batches.waiting(_MOST_BATCHES):
            await self._services.batch_jobs.announce(batch_id)

    async def _notify(self, ctx: dict[Any, Any]) -> None:
        await self._notices.send_due()

    async def _sweep(self, ctx: dict[Any, Any]) -> None:
        await self.sweep()

    async def sweep(self) -> None:
        """Delete what has expired, and what is left of uploads and batches that are over."""
        files, store = self._services.files, self._services.store
        for file_id in await files.expired(_SWEPT_AT_ONCE):
            with contextlib.suppress(InvalidRequestError):  # a batch reads it still
                await files.remove(file_id)
        for path in await files.rubbish(_SWEPT_AT_ONCE):
            try:
                await store.delete(path)
            except UnavailableError as error:
                log.warning("file cannot be deleted", extra={"path": path, "reason": error.message})
                return
            await files.thrown_away(path)
