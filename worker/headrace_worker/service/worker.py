"""Worker: load, announce, serve, hand over. The only wiring in the room."""

import asyncio
import contextlib
import functools
import gc
import logging
import secrets
import signal
import socket
from collections.abc import Coroutine
from typing import Any

from headrace_shared.clock import mono_s
from headrace_shared.errors import UnavailableError
from headrace_shared.queue.blobs import BlobStore
from headrace_shared.queue.claims import AppendStatus, ControlKind, WorkerQueue
from headrace_shared.queue.client import connect
from headrace_shared.queue.presence import Presence
from headrace_shared.queue.server_check import checking_server
from headrace_shared.queue.watch import put_watch
from headrace_shared.settings import RedisSettings
from headrace_shared.telemetry.tracing import setup_tracing
from headrace_worker.engine.build import EngineSetup, build_engine
from headrace_worker.service.answer_form import AnswerForm, answer_form, check_parsers
from headrace_worker.service.beat import Heart, starting_state
from headrace_worker.service.bridge import EngineThread, StepReport
from headrace_worker.service.card import publish_card
from headrace_worker.service.intake import Intake
from headrace_worker.service.lease import Lease
from headrace_worker.service.outbox import Outbox
from headrace_worker.service.pump import Pump
from headrace_worker.service.watch import SERVICE, WorkerWatch
from headrace_worker.settings import WorkerSettings

log = logging.getLogger(__name__)

_REDIS_RETRY_S = 1.0
_CANCEL_AGAIN_S = 0.2
_LAST_WORDS_S = 2.0
"""How long frames may take to reach the log when the worker leaves."""
_DRAIN_LOOK_S = 0.05


class EngineCrashedError(RuntimeError):
    """The engine failed in a step; its requests continue on other workers, or after a restart."""


class Worker:
    """One process: an engine thread, and an event loop that connects it to the queue."""

    def __init__(self, settings: WorkerSettings, redis_settings: RedisSettings) -> None:
        self._settings = settings
        self._redis_settings = redis_settings
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._crash: BaseException | None = None

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain as the settings say; a second signal cuts that short.

        Raises EngineSetupError when the model cannot be loaded, EngineCrashedError after a failed step.
        """
        # Loading cannot be interrupted from within, and has nothing to hand over: until then signals just kill.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        check_parsers(self._settings)
        setup = await asyncio.to_thread(build_engine, self._settings)
        form = answer_form(self._settings, setup.files)
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, self._on_signal)
        self._tracing = setup_tracing(SERVICE)
        redis = connect(self._redis_settings)
        try:
            async with checking_server(redis):
                await self._serve(setup, form, redis)
        finally:
            await redis.aclose()
            if self._tracing is not None:
                await asyncio.to_thread(self._tracing.close)
        if self._crash is not None:
            raise EngineCrashedError("the engine crashed, see the log above") from self._crash

    async def _serve(self, setup: EngineSetup, form: AnswerForm, redis: Any) -> None:
        settings = self._settings
        publish = functools.partial(publish_card, settings, setup, form, BlobStore(redis))
        card = await self._until_redis_answers(publish)
        if card is None:
            return
        worker_id = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self._watch = watch = WorkerWatch(settings, setup, card.name, worker_id, self._tracing)
        put_watch(redis, watch.metrics)
        queue = WorkerQueue(redis, card.queue, worker_id, settings.lease_ms)
        tokenizer = setup.files.tokenizer()
        grammars = setup.grammars(tokenizer) if setup.grammars else None
        pump = Pump(tokenizer, worker_id, watch.attempts, grammars, setup.processors)
        engine = EngineThread(setup.engine, self._on_report, self._on_crash)
        outbox = Outbox(queue, pump.lost, pump.unheard, settings.orphan_grace_s)
        pump.connect(engine, outbox)
        presence = Presence(redis)
        state = starting_state(worker_id, card, setup.engine.stats(), settings.max_num_seqs)
        self._heart = Heart(queue, presence, state, publish)
        self._heart.announced = watch.announced
        self._intake = Intake(queue, pump, setup.engine.room())
        self._pump = pump
        # What is there by now stays: looking through all of torch and transformers would hold up a step.
        gc.collect()
        gc.freeze()
        engine.start()
        log.info(
            "worker ready",
            extra={
                "model": card.name,
                "context": card.max_model_len,
                "kv_blocks": state.kv_blocks_total,
                "worker": worker_id,
            },
        )
        heart = self._heart
        tasks = {
            "outbox": outbox.run(),
            "lease": Lease(queue, engine, pump, outbox).run(settings.lease_ms),
            "announcement": heart.run_announcement(card, settings.lease_ms),
            "reaper": heart.run_reaper(),
            "control": self._obey(queue),
        }
        async with watch.watching(queue, pump, engine), _running(tasks, self._task_failed):
            async with _running({"intake": self._intake.run()}, self._task_failed):
                await self._stop.wait()
            await heart.drain(card, settings.lease_ms)
            if settings.drain == "finish":
                await self._finish_running()
            await self._hand_over(queue, outbox)
        await asyncio.to_thread(engine.stop)
        if grammars is not None:
            grammars.close()
        with contextlib.suppress(UnavailableError):
            await presence.withdraw(worker_id)

    async def _finish_running(self) -> None:
        log.info("finishing running requests", extra={"running": len(self._pump)})
        end_s = mono_s() + self._settings.drain_timeout_s
        while self._pump and self._crash is None and mono_s() < end_s:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_LOOK_S):
                    await self._hurry.wait()
                    return

    async def _hand_over(self, queue: WorkerQueue, outbox: Outbox) -> None:
        """Give running requests back with their logs; whoever claims them goes on after the last token."""
        self._pump.abandon_all()
        try:
            async with asyncio.timeout(_LAST_WORDS_S):
                await outbox.drained()
                released = await queue.release()
            log.info("worker leaves", extra={"handed_over": released})
        except (TimeoutError, UnavailableError):
            log.warning("worker leaves without Redis; its lease will free its requests")

    async def _obey(self, queue: WorkerQueue) -> None:
        async for message in queue.control():
            if message.kind is ControlKind.CANCEL:
                self._pump.give_up(message.request_id, AppendStatus.CANCELLED)
            else:
                self._intake.ring()

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def _on_report(self, report: StepReport) -> None:
        self._watch.note(report)
        # Tokens first: what is delivered here goes out before the intake asks Redis for more.
        self._pump.deliver(report)
        self._intake.note(report)
        self._heart.note(report)

    def _on_crash(self, error: BaseException) -> None:
        self._crash = error
        self._stop.set()

    def _task_failed(self, name: str, error: BaseException) -> None:
        log.error("worker task failed", extra={"task": name}, exc_info=error)
        self._on_crash(error)

    async def _until_redis_answers(self, call: Any) -> Any:
        """Repeat ``call`` until Redis is there; None when told to stop meanwhile."""
        while not self._stop.is_set():
            try:
                return await call()
            except UnavailableError as error:
                log.warning("waiting for Redis", extra={"error": error.message})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REDIS_RETRY_S):
                    await self._stop.wait()
        return None


@contextlib.asynccontextmanager
async def _running(tasks: dict[str, Coroutine[Any, Any, None]], on_failure: Any) -> Any:
    """Run tasks for the length of the block; a failure is reported, not raised."""

    def note(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            on_failure(task.get_name(), error)

    started = [asyncio.create_task(coroutine, name=name) for name, coroutine in tasks.items()]
    for task in started:
        task.add_done_callback(note)
    try:
        yield
    finally:
        pending = set(started)
        while pending:
            for task in pending:
                task.cancel()
            # Not once: a cancellation that arrives together with a reply can get lost inside redis-py.
            _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_S)
