"""AttemptSpan: one worker's work on one request, as a span in the request's trace.

An attempt that goes on where another worker was lost has a link to that one's span, whose name stands in the log.
No span says anything of the prompt or the answer.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from headrace_shared.errors import ErrorCode
from headrace_shared.protocol.event import Event, Started
from headrace_shared.queue.claims import Claim
from headrace_shared.telemetry.tracing import Tracing, context_of, link_to, traceparent_of

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class AttemptSpan:
    """Open from the claim until the request has ended here; without tracing it does nothing."""

    def __init__(self, span: "Span | None" = None) -> None:
        self._span = span

    @property
    def traceparent(self) -> str | None:
        return None if self._span is None else traceparent_of(self._span)

    def first_token(self) -> None:
        if self._span is not None:
            self._span.add_event("first_token")

    def end(self, outcome: str, prompt_tokens: int, completion_tokens: int, finish_reasons: Sequence[str]) -> None:
        """``outcome``: ``finished``, ``handed over``, ``fenced``, or a failure's code; tokens: of all attempts together."""
        if self._span is None:
            return
        self._span.set_attribute("headrace.outcome", outcome)
        self._span.set_attribute("gen_ai.usage.input_tokens", prompt_tokens)
        self._span.set_attribute("gen_ai.usage.output_tokens", completion_tokens)
        self._span.set_attribute("gen_ai.response.finish_reasons", list(finish_reasons))
        if isinstance(outcome, ErrorCode) and outcome is not ErrorCode.CANCELLED:
            from opentelemetry.trace import StatusCode

            self._span.set_attribute("error.type", outcome)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class AttemptSpans:
    """Makes the spans of one worker. ``tracing`` None: spans that do nothing."""

    def __init__(self, tracing: Tracing | None, model: str, worker_id: str) -> None:
        self._tracing = tracing
        self._model = model
        self._worker_id = worker_id

    def start(self, claim: Claim) -> AttemptSpan:
        if self._tracing is None:
            return AttemptSpan()
        from opentelemetry.trace import SpanKind

        header = claim.job.header
        span = self._tracing.tracer.start_span(
            f"process {self._model}",
            context_of(header.traceparent, header.tracestate),
            kind=SpanKind.CONSUMER,
            attributes={
                "gen_ai.request.model": self._model,
                "headrace.request_id": claim.request_id,
                "headrace.attempt": claim.attempt,
                "headrace.worker": self._worker_id,
            },
            links=link_to(_last_traceparent(claim.log)),
        )
        return AttemptSpan(span)


def _last_traceparent(log: Sequence[Event]) -> str | None:
    named = (event.traceparent for event in reversed(log) if isinstance(event, Started))
    return next((traceparent for traceparent in named if traceparent), None)
