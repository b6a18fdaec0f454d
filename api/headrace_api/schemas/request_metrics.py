"""The ``metrics`` object that a request can ask for, in vLLM's form."""

import msgspec

from headrace_shared.protocol.event import Finished


class RequestMetrics(msgspec.Struct, frozen=True):
    """Durations as the worker measured them; of a request that was continued, those of its last worker."""

    time_to_first_token_ms: float
    """From the queue's entry to the first token."""
    generation_time_ms: float
    """From the first token to the last one."""
    queue_time_ms: float
    """The wait in the queue."""
    mean_itl_ms: float | None
    """Mean time between tokens; null for a single token."""
    tokens_per_second: float | None
    """Tokens of the answer by the time from its prefill's begin to its last token."""

    @classmethod
    def of(cls, event: Finished) -> "RequestMetrics":
        tokens = event.completion_tokens
        busy_ms = event.prefill_ms + event.decode_ms
        return cls(
            time_to_first_token_ms=round(event.queue_ms + event.prefill_ms, 3),
            generation_time_ms=round(event.decode_ms, 3),
            queue_time_ms=round(event.queue_ms, 3),
            mean_itl_ms=round(event.decode_ms / (tokens - 1), 3) if tokens > 1 else None,
            tokens_per_second=round(tokens * 1000 / busy_ms, 3) if tokens and busy_ms > 0 else None,
        )
