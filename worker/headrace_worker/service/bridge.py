"""EngineThread: the engine's own thread, with one hand-over to the event loop per step.

Everything that changes the engine runs on its thread, between two steps: callers leave orders in
an inbox. Results, room and statistics come back together in one ``call_soon_threadsafe``.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TypeVar

from headrace_worker.engine.generate import GenerateEngine, StepFacts
from headrace_worker.schedule.plan import SequenceOutput
from headrace_worker.schedule.request import Request
from headrace_worker.schedule.room import Room
from headrace_worker.schedule.scheduler import SchedulerStats

log = logging.getLogger(__name__)

T = TypeVar("T")

_IDLE_WAIT_S = 0.5
"""Longest sleep without orders; only bounds how late ``stop`` is seen."""


@dataclass(slots=True)
class StepReport:
    """What one turn of the engine thread did."""

    outputs: list[SequenceOutput]
    added: list[str]
    """Requests that the scheduler has taken in during this turn."""
    refused: list[tuple[str, str]]
    """Requests that the scheduler cannot ever run, with the reason."""
    room: Room
    stats: SchedulerStats
    step: StepFacts | None = None
    """None when there was nothing to compute."""


@dataclass(slots=True)
class _Turn:
    added: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)


class EngineThread:
    """Runs a GenerateEngine until ``stop``; orders may come from any thread.

    ``on_report`` and ``on_crash`` are called on the event loop that ``start`` was called from.
    After a crash the engine is not used again: the process should end, and the lease lets other
    workers continue its requests.
    """

    def __init__(
        self,
        engine: GenerateEngine,
        on_report: Callable[[StepReport], None],
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self._engine = engine
        self._on_report = on_report
        self._on_crash = on_crash
        self._inbox: SimpleQueue[Callable[[_Turn], None]] = SimpleQueue()
        self._stopping = False
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Let the current step end, then leave; what is still running stays unfinished."""
        self._stopping = True
        self._inbox.put(lambda _: None)
        if self._thread.is_alive():
            self._thread.join()

    def add(self, request: Request) -> None:
        """Queue a request for the next step. A refusal comes back in a report."""

        def order(turn: _Turn) -> None:
            try:
                self._engine.add(request)
            except ValueError as error:
                turn.refused.append((request.request_id, str(error)))
            else:
                turn.added.append(request.request_id)

        self._inbox.put(order)
        if not request.background:
            # After the order, so that whoever gives up a step finds it.
            self._engine.hurry()

    def abort(self, run_id: str) -> None:
        """Drop a request and free its blocks before the next step; unknown ids are fine."""
        self._inbox.put(lambda _: self._engine.abort(run_id))

    def finish(self, run_id: str, choice: int) -> None:
        """End one choice, whose text has met a stop string."""
        self._inbox.put(lambda _: self._engine.finish(run_id, choice))

    def busy_s(self) -> float:
        """How long the current step has been running, seconds; 0 between steps."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def _run(self) -> None:
        try:
            while not self._stopping:
                turn = self._take_orders()
                self._busy_since = time.monotonic()
                outputs = self._engine.step()
                self._busy_since = None
                self._report(turn, outputs)
        except Exception as error:
            log.exception("engine crashed")
            self._hand_over(self._on_crash, error)

    def _take_orders(self) -> _Turn:
        self._engine.calm_down()
        turn = _Turn()
        block = not self._engine.has_work()
        while True:
            try:
                order = self._inbox.get(block=block, timeout=_IDLE_WAIT_S)
            except Empty:
                return turn
            order(turn)
            block = False

    def _report(self, turn: _Turn, outputs: list[SequenceOutput]) -> None:
        engine = self._engine
        report = StepReport(outputs, turn.added, turn.refused, engine.room(), engine.stats(), engine.take_facts())
        self._hand_over(self._on_report, report)

    def _hand_over(self, callback: Callable[[T], None], value: T) -> None:
        assert self._loop is not None  # noqa: S101 start() has set it before the thread runs
        try:
            self._loop.call_soon_threadsafe(callback, value)
        except RuntimeError:
            # The loop was closed while this step ran: the process is ending.
            self._stopping = True
