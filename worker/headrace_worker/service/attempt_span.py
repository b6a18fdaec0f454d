"""The spans of one worker's work on one request, in the request's trace.

``process <model>`` is the attempt; below it are the claim, the wait for a place in the batch, the prefill with an event
for each chunk, and the decoding. The wait in the queue is a span of its own beside it. They are made when they are over,
from the attempt's marks: while the attempt runs they cost nothing.

An attempt that goes on where another worker was lost has a link to that one's span, whose name stands in the log. A job
that is an item of a larger work, as of a batch, is a trace of its own with a link to that work's span.
No span says anything of the prompt or the answer.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from headrace_shared.clock import mono_s, wall_ns
from headrace_shared.errors import ErrorCode
from headrace_shared.protocol.event import Event, Started
from headrace_shared.queue.claims import Claim
from headrace_shared.telemetry.tracing import Part, Tracing, context_of, link_to, span_context_in, traceparent_of
from headrace_worker.service.marks import AttemptMarks, ChunkMark

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_MOST_SKEW_NS = 2_000_000_000
"""Redis' clock is only believed as far as it agrees with ours."""
_WORTH_A_SPAN_S = 0.0005
_CHUNK = "chunk"


class AttemptSpan:
    """Open from the claim until the request has ended here; does nothing without tracing, or where it is not sampled."""

    def __init__(self, spans: "AttemptSpans", claim: Claim) -> None:
        self._spans = spans
        self._model = spans.model
        self.traceparent: str | None = None
        self._span: Span | None = None
        if spans.tracing is None:
            return
        from opentelemetry.trace import SpanKind

        # Spans want wall clock; all marks are read from one clock and moved by one offset.
        self._offset_ns = wall_ns() - round(mono_s() * 1e9)
        header = claim.job.header
        context = context_of(header.traceparent, header.tracestate)
        accepted_ns = wall_ns()
        claimed_ns = claim.claimed_ms * 1_000_000
        if not 0 <= accepted_ns - claimed_ns < _MOST_SKEW_NS:
            claimed_ns = accepted_ns
        span = spans.tracing.tracer.start_span(
            f"process {self._model}",
            context,
            kind=SpanKind.CONSUMER,
            start_time=claimed_ns,
            attributes={
                "gen_ai.request.model": self._model,
                "headrace.request_id": claim.request_id,
                "headrace.attempt": claim.attempt,
                "headrace.worker": spans.worker_id,
            },
            links=link_to(_last_traceparent(claim.log)) + link_to(header.linked),
        )
        self.traceparent = traceparent_of(span)
        if not span.is_recording():
            return
        self._span = span
        self._claim_ns = (claimed_ns, accepted_ns)
        if claim.attempt == 1:
            waited_ns = max(0, claim.claimed_ms - claim.enqueued_ms) * 1_000_000
            wait = Part("queue wait", claimed_ns - waited_ns, claimed_ns, {"headrace.priority": claim.priority})
            spans.tracing.add(span_context_in(context) or span.get_span_context(), wait)

    def end(self, marks: AttemptMarks, outcome: str, tokens: tuple[int, int], finish_reasons: Sequence[str]) -> None:
        """``tokens``: prompt and answer, of all attempts together."""
        span = self._span
        if span is None:
            return
        # Only now, as the others: should this worker be killed, no span of it is left without the one above.
        self._below(Part("claim", *self._claim_ns, {"messaging.system": "redis"}, "CLIENT"))
        self._phases(marks)
        prompt_tokens, completion_tokens = tokens
        span.set_attributes(
            {
                "headrace.outcome": outcome,
                "headrace.preemptions": marks.preemptions,
                "gen_ai.usage.input_tokens": prompt_tokens,
                "gen_ai.usage.output_tokens": completion_tokens,
                "gen_ai.usage.cache_read.input_tokens": marks.cached_tokens,
                "gen_ai.response.finish_reasons": list(finish_reasons),
                **{f"gen_ai.latency.{name}": value for name, value in marks.latencies().items()},
            }
        )
        if self._spans.worker_times:
            span.set_attribute("gen_ai.latency.time_in_model_execute", marks.execute_s)
        if self._spans.model_times:
            span.set_attribute("gen_ai.latency.time_in_model_forward", marks.forward_s)
        if isinstance(outcome, ErrorCode) and outcome is not ErrorCode.CANCELLED:
            from opentelemetry.trace import StatusCode

            span.set_attribute("error.type", outcome)
            span.set_status(StatusCode.ERROR)
        span.end()

    def _phases(self, marks: AttemptMarks) -> None:
        scheduled_s = marks.scheduled_s
        if scheduled_s is None:
            return
        end_s = marks.last_s or mono_s()
        first_s = marks.first_s or end_s
        if scheduled_s - marks.accepted_s > _WORTH_A_SPAN_S:
            self._below(Part("wait in worker", self._ns(marks.accepted_s), self._ns(scheduled_s)))
        chunks = [(_CHUNK, self._ns(chunk.ended_s), _chunk_attributes(chunk)) for chunk in marks.chunks]
        cached = {"headrace.cached_tokens": marks.cached_tokens}
        self._below(Part("prefill", self._ns(scheduled_s), self._ns(first_s), cached, events=chunks))
        if marks.first_s is not None:
            assert self._span is not None  # noqa: S101 it is what this hangs below
            self._span.add_event("first_token", timestamp=self._ns(first_s))
            steps = {"headrace.steps": marks.decode_steps}
            self._below(Part("decode", self._ns(first_s), self._ns(end_s), steps))

    def _below(self, part: Part) -> None:
        if self._span is not None and self._spans.tracing is not None:
            self._spans.tracing.add(self._span.get_span_context(), part)

    def _ns(self, moment_s: float) -> int:
        return round(moment_s * 1e9) + self._offset_ns


class AttemptSpans:
    """Makes the spans of one worker. ``tracing`` None: spans that do nothing."""

    def __init__(
        self,
        tracing: Tracing | None,
        model: str,
        worker_id: str,
        *,
        worker_times: bool = False,
        model_times: bool = False,
    ) -> None:
        """``worker_times`` and ``model_times`` add how long its steps, and their forward passes, took."""
        self.tracing = tracing
        self.model = model
        self.worker_id = worker_id
        self.worker_times = tracing is not None and worker_times
        self.model_times = tracing is not None and model_times

    @property
    def times(self) -> bool:
        """Whether each step of a request is to be told."""
        return self.worker_times or self.model_times

    def start(self, claim: Claim) -> AttemptSpan:
        return AttemptSpan(self, claim)


def _chunk_attributes(chunk: ChunkMark) -> dict[str, Any]:
    return {"headrace.start_token": chunk.start, "headrace.tokens": chunk.count, "headrace.step_s": chunk.seconds}


def _last_traceparent(log: Sequence[Event]) -> str | None:
    named = (event.traceparent for event in reversed(log) if isinstance(event, Started))
    return next((traceparent for traceparent in named if traceparent), None)
