"""Timeline: when what happened to one generation request, as the API node that took it saw it.

The one place that the request's spans, its metrics, its ``Server-Timing`` header and the list of recent requests are
made from. A request may be several jobs on the queue: the first token is that of the first job to have one, and the
request has ended when the last job is.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from headrace_api.metrics import Metrics
from headrace_api.spans import RequestSpans
from headrace_shared.clock import mono_s, wall_ms
from headrace_shared.errors import ErrorCode, HeadraceError
from headrace_shared.protocol.ask import Ask
from headrace_shared.protocol.event import Delta, Finished, Started
from headrace_shared.protocol.job import GenerateJob
from headrace_shared.telemetry.series import THE_ENGINE

_KEPT = 200
_NOT_ADMITTED = frozenset(
    code.value
    for code in (ErrorCode.OVERLOADED, ErrorCode.RATE_LIMITED, ErrorCode.UNAVAILABLE, ErrorCode.DEADLINE_EXCEEDED)
)


@dataclass(frozen=True, slots=True)
class Past:
    """A request that this process is done with, or has in hand; durations in milliseconds from its arrival."""

    request_id: str
    owner: str
    """As in ``Ask``."""
    endpoint: str
    model: str
    tenant: str
    priority: int
    arrived_ms: int
    """Wall clock."""
    prepared_ms: float | None
    enqueued_ms: float | None
    queue_ms: float | None
    first_token_ms: float | None
    ended_ms: float | None
    attempts: int
    prompt_tokens: int
    completion_tokens: int
    outcome: str
    """``running``, ``finished``, ``cancelled`` or an error's code."""


class Timeline:
    """Marks are set in this order; those that never come stay None."""

    def __init__(self, ask: Ask, model: str, arrived_s: float, metrics: Metrics, spans: RequestSpans) -> None:
        # Without its body, which may be large and is kept elsewhere.
        self.ask = msgspec.structs.replace(ask, body=b"")
        self.model = model
        self.spans = spans
        self._metrics = metrics
        self._arrived_s = arrived_s
        self._arrived_wall_ms = wall_ms() - round((mono_s() - arrived_s) * 1000)
        self._prepared_s: float | None = None
        self._enqueued_s: float | None = None
        self._first_s: float | None = None
        self._ended_s: float | None = None
        self._queue_ms: float | None = None
        self._attempts = 0
        self._open = 0
        self._finished: list[Finished] = []
        self._outcome = "running"
        self._worst = ""
        """How the jobs ended that have."""
        spans.begin(ask, model)

    def prepared(self, jobs: Sequence[GenerateJob], body: bytes) -> None:
        """Template rendered, tokens counted; it goes to the queue now."""
        self._prepared_s = mono_s()
        self.spans.asked(jobs, body)
        self.spans.enter("enqueue")
        for job in jobs:
            self._metrics.params_n.labels(self.model, THE_ENGINE).observe(job.n)
            self._metrics.params_max_tokens.labels(self.model, THE_ENGINE).observe(job.stopping.max_tokens)

    def enqueued(self, queue: str, jobs: int) -> None:
        self._enqueued_s = mono_s()
        self.spans.enqueued(queue, jobs)

    def opened(self) -> None:
        """One more job has somebody who follows it."""
        self._open += 1

    def started(self, event: Started) -> None:
        self._attempts = max(self._attempts, event.attempt)
        self._queue_ms = event.queue_ms if self._queue_ms is None else self._queue_ms
        self.spans.started(event)

    def said(self, delta: Delta) -> None:
        if self._first_s is None and delta.token_ids:
            self._first_s = mono_s()
            self.spans.first_token()
            self._observe_phases()
        self.spans.said(len(self._finished), delta)

    def finished(self, event: Finished) -> None:
        self._finished.append(event)

    def closed(self, outcome: str) -> None:
        """One job's follower has gone; the last one ends the request."""
        self._open -= 1
        # The worst that any of them met.
        if self._worst in ("", "finished"):
            self._worst = outcome
        if self._open == 0:
            self.end(self._worst)

    def refused(self, error: BaseException) -> None:
        """It never came into the queue."""
        code = error.code.value if isinstance(error, HeadraceError) else "cancelled"
        if code in _NOT_ADMITTED:
            self._metrics.rejections.labels(self.model, code).inc()
        self.end(code)

    def end(self, outcome: str) -> None:
        """Whatever was open is over."""
        if self._ended_s is not None:
            return
        self._outcome = outcome
        self._ended_s = mono_s()
        if self._finished:
            first_s = None if self._first_s is None else self._first_s - self._arrived_s
            self.spans.finished(self._finished, first_s, self._ended_s - self._arrived_s)
        self.spans.end(outcome)

    def server_timing(self) -> str | None:
        """The header's value, as far as things have come; None before the request is on the queue."""
        if self._prepared_s is None or self._enqueued_s is None:
            return None
        durations = {"prepare": self._prepared_s - self._arrived_s, "enqueue": self._enqueued_s - self._prepared_s}
        if self._queue_ms is not None:
            durations["queue"] = self._queue_ms / 1000
        if self._first_s is not None:
            durations["prefill"] = self._prefill_s()
            durations["first_token"] = self._first_s - self._arrived_s
        if self._finished:
            durations["total"] = mono_s() - self._arrived_s
        return ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in durations.items())

    def past(self) -> Past:
        def since_arrival(moment_s: float | None) -> float | None:
            return None if moment_s is None else round((moment_s - self._arrived_s) * 1000, 1)

        return Past(
            request_id=self.ask.request_id,
            owner=self.ask.owner,
            endpoint=self.ask.endpoint,
            model=self.model,
            tenant=self.ask.tenant,
            priority=self.ask.priority,
            arrived_ms=self._arrived_wall_ms,
            prepared_ms=since_arrival(self._prepared_s),
            enqueued_ms=since_arrival(self._enqueued_s),
            queue_ms=self._queue_ms,
            first_token_ms=since_arrival(self._first_s),
            ended_ms=since_arrival(self._ended_s),
            attempts=self._attempts,
            prompt_tokens=sum(event.prompt_tokens for event in self._finished),
            completion_tokens=sum(event.completion_tokens for event in self._finished),
            outcome=self._outcome,
        )

    def _prefill_s(self) -> float:
        """What is left of the time to the first token without queue: prefill, and the way of that token."""
        begun_s = self._enqueued_s if self._enqueued_s is not None else self._arrived_s
        return max(0.0, (self._first_s or begun_s) - begun_s - (self._queue_ms or 0.0) / 1000)

    def _observe_phases(self) -> None:
        if self._prepared_s is None or self._enqueued_s is None:
            return
        phases = self._metrics.phases
        phases.labels(self.model, "prepare").observe(self._prepared_s - self._arrived_s)
        phases.labels(self.model, "enqueue").observe(self._enqueued_s - self._prepared_s)
        phases.labels(self.model, "queue").observe((self._queue_ms or 0.0) / 1000)
        phases.labels(self.model, "prefill").observe(self._prefill_s())


class Timelines:
    """Makes them, and keeps the latest: what a console shows of single requests."""

    def __init__(self, metrics: Metrics, spans_below: Callable[[str | None, str | None], RequestSpans]) -> None:
        self._metrics = metrics
        self._spans_below = spans_below
        self._kept: deque[Timeline] = deque(maxlen=_KEPT)

    def begin(self, ask: Ask, model: str, arrived_s: float, parent: tuple[str | None, str | None]) -> Timeline:
        """``parent`` is the trace context that the request came with."""
        timeline = Timeline(ask, model, arrived_s, self._metrics, self._spans_below(*parent))
        self._kept.append(timeline)
        return timeline

    def recent(self) -> list[Past]:
        """The latest requests that came to this process, newest first."""
        return [timeline.past() for timeline in reversed(self._kept)]
