"""RequestQueue: the API's end of the queue."""

from dataclasses import dataclass
from enum import StrEnum

from redis.asyncio import Redis

from headrace_shared.clock import wall_ms
from headrace_shared.errors import DeadlineExceededError, ErrorCode, InvalidRequestError, OverloadedError
from headrace_shared.protocol.codec import encode_frame, encode_job
from headrace_shared.protocol.event import Failed
from headrace_shared.protocol.job import Job
from headrace_shared.queue import keys
from headrace_shared.queue.client import reaching
from headrace_shared.queue.scripts import Script, run_script
from headrace_shared.settings import QueueSettings

_MAX_PRIORITY = 2**53 - 1
"""Redis orders by doubles; beyond this two priorities could become one."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How much may wait per model, and what a request carries along for its whole life."""

    max_requests: int = 10_000
    max_tokens: int = 100_000_000
    replay_ttl_s: int = 600
    max_attempts: int = 4

    @classmethod
    def of_settings(cls, settings: QueueSettings) -> "QueueLimits":
        return cls(**settings.model_dump())


class EnqueueResult(StrEnum):
    """What became of a request that was put into the queue."""

    NEW = "new"
    DUPLICATE = "duplicate"
    """The id was there already, waiting, running or done: nothing changed."""
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Enqueued:
    """``queued_requests`` and ``queued_tokens`` were waiting before, at any priority."""

    result: EnqueueResult
    queued_requests: int
    queued_tokens: int


class CancelOutcome(StrEnum):
    """What a cancellation met."""

    GONE = "gone"
    """Unknown, or done already."""
    CANCELLED = "cancelled"
    """It was waiting, or its worker is dead; its last event is in the log now."""
    REQUESTED = "requested"
    """It is running; its worker has been told and will say the last word."""


@dataclass(frozen=True, slots=True)
class QueueDepth:
    queued_requests: int
    queued_tokens: int
    running: int


_ENQUEUE_RESULTS = (EnqueueResult.NEW, EnqueueResult.DUPLICATE, EnqueueResult.FULL)
_CANCEL_OUTCOMES = (CancelOutcome.GONE, CancelOutcome.CANCELLED, CancelOutcome.REQUESTED)


class RequestQueue:
    """Every method may be called again after a failure. Raises UnavailableError when Redis is away."""

    def __init__(self, redis: Redis, limits: QueueLimits) -> None:
        self._redis = redis
        self._limits = limits

    async def enqueue(self, job: Job) -> Enqueued:
        """Put a job into its queue; a second time with the same request id it changes nothing.

        Raises OverloadedError when the queue is full, DeadlineExceededError when the deadline has passed,
        InvalidRequestError when the priority cannot be ordered.
        """
        header = job.header
        if abs(header.priority) > _MAX_PRIORITY:
            raise InvalidRequestError(
                f"priority must be between -{_MAX_PRIORITY} and {_MAX_PRIORITY}", param="priority"
            )
        # Sent as a duration: this host's clock may differ from Redis', which judges the deadline.
        timeout_ms = header.deadline_ms - wall_ms() if header.deadline_ms is not None else None
        if timeout_ms is not None and timeout_ms <= 0:
            raise DeadlineExceededError("the request's deadline has passed")
        code, requests, tokens = await run_script(
            self._redis,
            Script.ENQUEUE,
            keys.base(header.queue),
            header.request_id,
            header.priority,
            keys.tenant_lane(header.tenant),
            header.cost_tokens,
            encode_job(job),
            "" if timeout_ms is None else timeout_ms,
            self._limits.max_requests,
            self._limits.max_tokens,
            self._limits.replay_ttl_s * 1000,
            self._limits.max_attempts,
        )
        result = _ENQUEUE_RESULTS[code]
        if result is EnqueueResult.FULL:
            raise OverloadedError(f"the queue is full: {requests} requests with {tokens} tokens are waiting")
        return Enqueued(result, requests, tokens)

    async def cancel(self, queue: str, request_id: str, reason: str) -> CancelOutcome:
        """Stop a request wherever it is. Its stream ends with ``Failed(CANCELLED, reason)``, unless it was faster."""
        frame = encode_frame([Failed(ErrorCode.CANCELLED, reason)])
        code = await run_script(self._redis, Script.CANCEL, keys.base(queue), request_id, reason, frame)
        return _CANCEL_OUTCOMES[code]

    async def depth(self, queue: str) -> QueueDepth:
        """What waits and what runs now."""
        async with reaching(self._redis):
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hmget(keys.counters(queue), ["requests", "tokens", "running"])
            [counts] = await pipeline.execute()
        return QueueDepth(*(int(count or 0) for count in counts))
