"""GET /autoscale/{model}."""

import msgspec


class ScaleSignals(msgspec.Struct, frozen=True, kw_only=True):
    """What scaling a model's workers needs to know. Tokens are context tokens: prompt and longest answer."""

    model: str
    queued_requests: int
    queued_tokens: int
    running: int
    """Requests that workers hold."""
    oldest_ms: int
    """How long the request that waits longest has been waiting."""
    tokens_per_s: float | None
    """Rate of late, of all workers together; null when nothing is known."""
    workers: int
    slots: int
    """Sequences that all workers together can run at once."""
    drain_s: float | None
    """How long serving all that waits would take at that rate."""
    desired_workers: int
