"""What API nodes and workers both measure: their way to Redis, and their event loop."""

import asyncio

from headrace_shared.clock import mono_s
from headrace_shared.telemetry.buckets import CALL_S
from headrace_shared.telemetry.series import Counted, Instruments, Spread

_LAG_EVERY_S = 0.25


class ProcessMetrics(Instruments):
    """A ``Watch`` of the queue's code."""

    redis_calls = Spread(
        "headrace:redis_call_seconds",
        "Round trips to Redis by operation (a script's name, or command), as this process sees them.",
        ("operation",),
        buckets=CALL_S,
    )
    redis_failures = Counted(
        "headrace:redis_call_failures", "Round trips that failed, retries included.", ("operation",)
    )
    loop_lag = Spread("headrace:event_loop_lag_seconds", "How late a timer of the event loop fires.", buckets=CALL_S)
    frames_appended = Counted(
        "headrace:frames_appended",
        "Frames sent to token logs, by what the log said: ok, duplicate (had it), fenced (another worker's), gap, "
        "cancelled, deadline.",
        ("status",),
    )
    claims = Counted("headrace:claimed_requests", "Requests claimed.")
    continuations = Counted(
        "headrace:continuations", "Claimed requests that another worker, or this one, had begun before."
    )
    requeued = Counted(
        "headrace:requests_requeued", "Requests of workers whose lease had ended, put back into the queue by this one."
    )
    log_reads = Counted(
        "headrace:stream_log_reads",
        "Reads of token logs by streams: asked (a client resumes), behind (a gap or silence), rewound (Redis lost frames).",
        ("why",),
    )
    frames_ignored = Counted(
        "headrace:stream_frames_ignored", "Frames that a stream got from its channel and had already."
    )

    def called(self, operation: str, seconds: float, *, failed: bool) -> None:
        self.redis_calls.labels(operation).observe(seconds)
        if failed:
            self.redis_failures.labels(operation).inc()

    def appended(self, status: str, frames: int) -> None:
        self.frames_appended.labels(status).inc(frames)

    def claimed(self, attempts: int) -> None:
        self.claims.inc()
        if attempts > 1:
            self.continuations.inc()

    def reaped(self, requests: int) -> None:
        self.requeued.inc(requests)

    def log_read(self, why: str) -> None:
        self.log_reads.labels(why).inc()

    def frame_ignored(self) -> None:
        self.frames_ignored.inc()

    async def follow_loop(self) -> None:
        """Measure the event loop's lag until cancelled, and settle: another process on our port may be asked for us."""
        while True:
            due_s = mono_s() + _LAG_EVERY_S
            await asyncio.sleep(_LAG_EVERY_S)
            self.loop_lag.observe(max(0.0, mono_s() - due_s))
            self.settle()
