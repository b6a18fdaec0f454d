"""Attempts: what the worker's metrics, traces and log lines learn of each claimed request."""

from collections.abc import Sequence

from headrace_shared.clock import mono_s
from headrace_shared.errors import ErrorCode
from headrace_shared.protocol.job import GenerateJob
from headrace_shared.queue.claims import Claim
from headrace_shared.telemetry.context import note_trace
from headrace_shared.telemetry.series import THE_ENGINE
from headrace_worker.engine.generate import StepFacts
from headrace_worker.service.attempt_span import AttemptSpans
from headrace_worker.service.marks import AttemptMarks
from headrace_worker.service.metrics import WorkerMetrics

_NOT_OURS = frozenset({"handed over", "fenced", "claimed again"})
"""Another attempt will tell how it ended."""


class Attempt:
    """Open from the claim until the request has ended here."""

    def __init__(self, attempts: "Attempts", claim: Claim) -> None:
        self._attempts = attempts
        self._job: GenerateJob = claim.job
        self._run_id = claim.run_id
        queue_s = max(0, claim.claimed_ms - claim.enqueued_ms) / 1000
        self.marks = AttemptMarks(queue_s)
        self._span = attempts.spans.start(claim)
        note_trace(claim.request_id, claim.job.header.traceparent)
        attempts.metrics.claim_latency.labels(attempts.model).observe(queue_s)

    @property
    def traceparent(self) -> str | None:
        return self._span.traceparent

    def token(self) -> None:
        """The step that was reported last brought it a token."""
        first = self.marks.first_s is None
        self.marks.token(self._attempts.step_ended_s or mono_s())
        if first:
            self._attempts.count_prompt(self._job, self.marks)

    def end(self, outcome: str, prompt_tokens: int, completion_tokens: int, finish_reasons: Sequence[str]) -> None:
        """``outcome``: ``finished``, ``handed over``, ``fenced``, or a failure's code; tokens: of all attempts together."""
        self._attempts.forget(self._run_id)
        self._span.end(self.marks, outcome, (prompt_tokens, completion_tokens), finish_reasons)
        self._attempts.count_end(self._job, self.marks, outcome, finish_reasons)
        if outcome not in _NOT_OURS:
            self._attempts.count_tokens(prompt_tokens, completion_tokens)


class Attempts:
    """Those of one worker."""

    def __init__(self, metrics: WorkerMetrics, spans: AttemptSpans) -> None:
        self.metrics = metrics
        self.spans = spans
        self.model = spans.model
        self.step_ended_s: float | None = None
        self._open: dict[str, Attempt] = {}
        self._labels = (self.model, THE_ENGINE)

    def start(self, claim: Claim) -> Attempt:
        attempt = self._open[claim.run_id] = Attempt(self, claim)
        return attempt

    def forget(self, run_id: str) -> None:
        self._open.pop(run_id, None)

    def note(self, facts: StepFacts) -> None:
        """A step is over. To be called before its outputs are delivered."""
        self.step_ended_s = facts.ended_s
        for chunk in facts.chunks:
            if (attempt := self._open.get(chunk.request_id)) is not None:
                attempt.marks.chunk(chunk, facts)
        for run_id in facts.preempted:
            if (attempt := self._open.get(run_id)) is not None:
                attempt.marks.preemptions += 1
        if self.spans.times:
            for run_id in facts.request_ids:
                if (attempt := self._open.get(run_id)) is not None:
                    attempt.marks.step(facts)

    def count_prompt(self, job: GenerateJob, marks: AttemptMarks) -> None:
        """Its prefill is done."""
        prompt = len(job.prompt) // 4
        metrics = self.metrics
        metrics.prompt_tokens.labels(*self._labels).inc(prompt)
        cached = min(marks.cached_tokens, prompt)
        metrics.prompt_tokens_cached.labels(*self._labels).inc(cached)
        metrics.prompt_tokens_by_source.labels(*self._labels, "local_compute").inc(prompt - cached)
        metrics.prompt_tokens_by_source.labels(*self._labels, "local_cache_hit").inc(cached)
        metrics.request_computed_tokens.labels(*self._labels).observe(prompt - cached)

    def count_end(self, job: GenerateJob, marks: AttemptMarks, outcome: str, finish_reasons: Sequence[str]) -> None:
        metrics = self.metrics
        metrics.outcomes.labels(self.model, str(outcome)).inc()
        if outcome in _NOT_OURS:
            return
        for reason in finish_reasons:
            metrics.successes.labels(*self._labels, str(reason)).inc()
        if unfinished := job.n - len(finish_reasons):
            aborted = outcome in (ErrorCode.CANCELLED, ErrorCode.DEADLINE_EXCEEDED)
            metrics.successes.labels(*self._labels, "abort" if aborted else "error").inc(max(0, unfinished))
        if outcome == ErrorCode.CANCELLED:
            metrics.cancellations.labels(marks.phase).inc()
        metrics.request_max_generation_tokens.labels(*self._labels).observe(job.stopping.max_tokens)
        metrics.request_preemptions.labels(*self._labels).observe(marks.preemptions)
        self._count_times(marks)

    def count_tokens(self, prompt_tokens: int, completion_tokens: int) -> None:
        self.metrics.request_prompt_tokens.labels(*self._labels).observe(prompt_tokens)
        self.metrics.request_generation_tokens.labels(*self._labels).observe(completion_tokens)

    def _count_times(self, marks: AttemptMarks) -> None:
        metrics = self.metrics
        latencies = marks.latencies()
        for name, histogram in (
            ("time_in_queue", metrics.queue_time),
            ("time_in_model_prefill", metrics.prefill_time),
            ("time_in_model_decode", metrics.decode_time),
            ("time_in_model_inference", metrics.inference_time),
        ):
            if name in latencies:
                histogram.labels(*self._labels).observe(latencies[name])
        if marks.scheduled_s is not None:
            metrics.worker_wait.labels(self.model).observe(marks.scheduled_s - marks.accepted_s)
