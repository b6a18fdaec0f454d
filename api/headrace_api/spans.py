"""The API node's spans: the HTTP request, and below it what becomes of a generation request.

Names and attributes are OpenTelemetry's conventions for HTTP, messaging and generative AI, and those that vLLM has for
the latter (``gen_ai.latency.*`` and ``gen_ai.usage.prompt_tokens`` among them). Prompts and answers are left out unless
the operator asks for them (``Tracing.content``). Without tracing every method does nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from headrace_shared.clock import wall_ns
from headrace_shared.errors import ErrorCode
from headrace_shared.protocol.ask import Ask
from headrace_shared.protocol.event import Delta, Finished, Started
from headrace_shared.protocol.job import GenerateJob
from headrace_shared.telemetry.tracing import Part, Tracing, context_of, traceparent_of, tracestate_of

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_OPERATIONS = {"chat": "chat", "chat_batch": "chat", "completions": "text_completion"}
_QUIET_OUTCOMES = (ErrorCode.CANCELLED.value, "cancelled", "finished")
_LONGEST_CONTENT = 65_536


class HttpSpan:
    """One HTTP request; open until its answer's last byte."""

    def __init__(self, span: "Span | None" = None) -> None:
        self._span = span

    @property
    def traceparent(self) -> str | None:
        return None if self._span is None else traceparent_of(self._span)

    @property
    def tracestate(self) -> str | None:
        return None if self._span is None else tracestate_of(self._span)

    def end(self, method: str, route: str, status: int | None) -> None:
        if self._span is None:
            return
        self._span.update_name(f"{method} {route}")
        self._span.set_attribute("http.route", route)
        if status is not None:
            self._span.set_attribute("http.response.status_code", status)
        if status is None or status >= 500:
            _fail(self._span, str(status or "disconnected"))
        self._span.end()


def start_http_span(
    tracing: Tracing | None, scope: Mapping[str, Any], headers: Mapping[str, str], request_id: str
) -> HttpSpan:
    """Below the client's span, when it names one."""
    if tracing is None:
        return HttpSpan()
    from opentelemetry.trace import SpanKind

    server = scope.get("server") or ("", None)
    attributes: dict[str, Any] = {
        "http.request.method": scope["method"],
        "url.path": scope["path"],
        "url.scheme": scope.get("scheme", "http"),
        "network.protocol.version": scope.get("http_version", "1.1"),
        "server.address": headers.get("host", server[0]).partition(":")[0],
        "user_agent.original": headers.get("user-agent", ""),
        "headrace.request_id": request_id,
    }
    context = context_of(headers.get("traceparent"), headers.get("tracestate"))
    span = tracing.tracer.start_span(scope["method"], context, kind=SpanKind.SERVER, attributes=attributes)
    return HttpSpan(span)


class RequestSpans:
    """``llm_request`` and the parts of it that happen here; the worker's hang below it."""

    def __init__(self, tracing: Tracing | None, traceparent: str | None, tracestate: str | None) -> None:
        """The names are those of the HTTP request's span, or the client's where there is none."""
        self._traceparent = traceparent
        self._tracestate = tracestate
        self._tracing = tracing
        self._content = tracing is not None and tracing.content
        self._context = None if tracing is None else context_of(traceparent, tracestate)
        self._request: Span | None = None
        self._step: Part | None = None
        self._said: dict[int, list[str]] = {}
        self._reasons: dict[tuple[int, int], str] = {}

    @property
    def traceparent(self) -> str | None:
        """What the worker's spans go below."""
        return self._traceparent

    @property
    def tracestate(self) -> str | None:
        return self._tracestate

    @property
    def verbatim(self) -> bool:
        """Whether every delta is wanted, not only those that end a choice."""
        return self._content and self._request is not None

    def begin(self, ask: Ask, model: str) -> None:
        if self._tracing is None:
            return
        operation = _OPERATIONS.get(ask.endpoint, ask.endpoint)
        span = self._tracing.tracer.start_span(
            "llm_request",
            self._context,
            attributes={
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "headrace",
                "gen_ai.request.model": model,
                "gen_ai.request.id": ask.request_id,
                "headrace.request_id": ask.request_id,
                "headrace.tenant": ask.tenant,
                "headrace.priority": ask.priority,
            },
        )
        self._traceparent, self._tracestate = traceparent_of(span), tracestate_of(span)
        if span.is_recording():
            self._request = span
            self.enter("render and tokenize")

    def enter(self, name: str) -> None:
        """Begin the next part, and end the one before it."""
        if self._request is None:
            return
        self.leave()
        now_ns = wall_ns()
        self._step = Part(name, now_ns, now_ns, kind="PRODUCER" if name == "enqueue" else "INTERNAL")

    def leave(self, attributes: Mapping[str, Any] | None = None) -> None:
        """The part that was entered last is over."""
        step, self._step = self._step, None
        if step is not None and self._request is not None and self._tracing is not None:
            ended = replace(step, end_ns=wall_ns(), attributes=attributes or {})
            self._tracing.add(self._request.get_span_context(), ended)

    def asked(self, jobs: Sequence[GenerateJob], body: bytes) -> None:
        """What was asked for is known now."""
        if self._request is None:
            return
        job = jobs[0]
        values = {
            "gen_ai.request.n": job.n,
            "gen_ai.request.max_tokens": job.stopping.max_tokens,
            "gen_ai.request.top_p": job.sampling.top_p,
            "gen_ai.request.temperature": job.sampling.temperature,
            "gen_ai.request.top_k": job.sampling.top_k if job.sampling.top_k > 0 else 0,
        }
        # As vLLM does: a temperature of 0 is left out.
        self._request.set_attributes({name: value for name, value in values.items() if value})
        if self._content:
            self._request.set_attribute("gen_ai.input.messages", _messages(body)[:_LONGEST_CONTENT])

    def enqueued(self, queue: str, jobs: int) -> None:
        self.leave(
            {
                "messaging.system": "redis",
                "messaging.operation.type": "send",
                "messaging.destination.name": queue,
                "messaging.batch.message_count": jobs,
            }
        )

    def started(self, event: Started) -> None:
        if self._request is not None and event.attempt > 1:
            self._request.add_event(
                "continuation", {"headrace.worker": event.worker, "headrace.attempt": event.attempt}
            )

    def first_token(self) -> None:
        """From now on it is told to the client."""
        self.enter("detokenize and stream")

    def said(self, job: int, delta: Delta) -> None:
        if delta.finish_reason is not None:
            self._reasons[job, delta.choice] = delta.finish_reason.value
        if self._content and self._request is not None:
            self._said.setdefault(delta.choice, []).append(delta.text)

    def finished(self, finished: Sequence[Finished], first_token_s: float | None, end_to_end_s: float) -> None:
        """All jobs are; ``finished`` are their last events."""
        if self._request is None:
            return
        last = finished[-1]
        prompt = sum(event.prompt_tokens for event in finished)
        completion = sum(event.completion_tokens for event in finished)
        prefill_s, decode_s = last.prefill_ms / 1000, last.decode_ms / 1000
        attributes: dict[str, Any] = {
            "gen_ai.usage.prompt_tokens": prompt,
            "gen_ai.usage.completion_tokens": completion,
            "gen_ai.usage.input_tokens": prompt,
            "gen_ai.usage.output_tokens": completion,
            "gen_ai.usage.cache_read.input_tokens": sum(event.cached_tokens for event in finished),
            "gen_ai.response.finish_reasons": [self._reasons[key] for key in sorted(self._reasons)],
            "gen_ai.latency.time_in_queue": last.queue_ms / 1000,
            "gen_ai.latency.time_in_model_prefill": prefill_s,
            "gen_ai.latency.time_in_model_decode": decode_s,
            "gen_ai.latency.time_in_model_inference": prefill_s + decode_s,
            "gen_ai.latency.e2e": end_to_end_s,
        }
        if first_token_s is not None:
            attributes["gen_ai.latency.time_to_first_token"] = first_token_s
        if self._content:
            attributes["gen_ai.output.messages"] = self._answers()[:_LONGEST_CONTENT]
        self._request.set_attributes(attributes)

    def end(self, outcome: str) -> None:
        """Everything is over, for better or worse."""
        self.leave()
        if self._request is None:
            return
        self._request.set_attribute("headrace.outcome", outcome)
        if outcome not in _QUIET_OUTCOMES:
            _fail(self._request, outcome)
        self._request.end()
        self._request = None

    def _answers(self) -> str:
        answers = [
            {
                "role": "assistant",
                "parts": [{"type": "text", "content": "".join(texts)}],
                "finish_reason": self._reasons.get((0, choice), ""),
            }
            for choice, texts in sorted(self._said.items())
        ]
        return msgspec.json.encode(answers).decode()


def _messages(body: bytes) -> str:
    """The prompt as the conventions write it; a text prompt is a message of the user."""
    asked = msgspec.json.decode(body)
    if not isinstance(asked.get("messages"), list):
        parts = [{"type": "text", "content": asked.get("prompt", asked.get("input"))}]
        return msgspec.json.encode([{"role": "user", "parts": parts}]).decode()
    told = [
        {"role": message.get("role"), "parts": [{"type": "text", "content": message.get("content")}]}
        for message in asked["messages"]
    ]
    return msgspec.json.encode(told).decode()


def _fail(span: "Span", kind: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)
