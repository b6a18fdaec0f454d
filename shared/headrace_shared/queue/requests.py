"""RequestQueue: the API's end of the queue."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from redis.asyncio import Redis

from headrace_shared.errors import DeadlineExceededError, ErrorCode, InvalidRequestError, OverloadedError
from headrace_shared.protocol.ask import Ask
from headrace_shared.protocol.codec import encode_ask, encode_frame, encode_job
from headrace_shared.protocol.event import Failed
from headrace_shared.protocol.job import Job
from headrace_shared.queue import keys
from headrace_shared.queue.asks import find_ask, read_holder
from headrace_shared.queue.script_load import ScriptLoad, script_load
from headrace_shared.queue.scripts import Script, run_script
from headrace_shared.queue.status import (
    Backlog,
    QueueDepth,
    RequestState,
    Survey,
    drain_rate,
    read_backlog,
    read_depth,
    read_state,
    read_survey,
    retry_after_s,
)
from headrace_shared.settings import QueueSettings

_MAX_PRIORITY = 2**53 - 1
"""Redis orders by doubles; beyond this two priorities could become one."""
NO_LIMIT = 2**53 - 1


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How much may wait per model, and what a request carries along for its whole life."""

    max_requests: int = 10_000
    max_tokens: int = 100_000_000
    replay_ttl_s: int = 600
    max_attempts: int = 4
    tenant_max_requests: int | None = None
    tenant_max_tokens: int | None = None
    tenant_weights: Mapping[str, float] = field(default_factory=dict)
    aging_ms: int = 0
    affinity_hold_ms: int = 25

    @classmethod
    def of_settings(cls, settings: QueueSettings) -> "QueueLimits":
        return cls(**settings.model_dump())


class EnqueueResult(StrEnum):
    """What became of a request that was put into the queue."""

    NEW = "new"
    DUPLICATE = "duplicate"
    """The id was there already, waiting, running or done: nothing changed."""
    FULL = "full"
    TENANT_FULL = "tenant full"
    ATTACHED = "attached"
    """The idempotency key is that of an earlier request: ``Enqueued.request_id``, to be followed instead."""
    CONFLICT = "conflict"
    """The same, but its body was another one."""


@dataclass(frozen=True, slots=True)
class Enqueued:
    """``queued_requests`` and ``queued_tokens`` were waiting before, at any priority."""

    result: EnqueueResult
    queued_requests: int
    queued_tokens: int
    request_id: str


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A tenant's own name for one request. ``fingerprint`` is that of the body; both of any length."""

    key: str
    fingerprint: str

    def digest(self, tenant: str) -> str:
        return hashlib.sha256(f"{len(tenant)}:{tenant}{self.key}".encode()).hexdigest()[:32]


class CancelOutcome(StrEnum):
    """What a cancellation met."""

    GONE = "gone"
    """Unknown, or done already."""
    CANCELLED = "cancelled"
    """It was waiting, or its worker is dead; its last event is in the log now."""
    REQUESTED = "requested"
    """It is running; its worker has been told and will say the last word."""
    HEARD = "heard"
    """Somebody listens to it, and it was to be stopped only if nobody does: nothing changed."""


_ENQUEUE_RESULTS = (
    EnqueueResult.NEW,
    EnqueueResult.DUPLICATE,
    EnqueueResult.FULL,
    EnqueueResult.TENANT_FULL,
    EnqueueResult.ATTACHED,
    EnqueueResult.CONFLICT,
)
_CANCEL_OUTCOMES = (CancelOutcome.GONE, CancelOutcome.CANCELLED, CancelOutcome.REQUESTED, CancelOutcome.HEARD)


def enqueue_args(
    job: Job,
    limits: QueueLimits,
    idempotency: IdempotencyKey | None = None,
    ask: Ask | None = None,
    dead_letter: str = "",
    timeout_ms: int | None = None,
) -> list[bytes | str | int]:
    """The arguments of enqueue.lua. Raises DeadlineExceededError when no time is left."""
    header = job.header
    if timeout_ms is not None and timeout_ms <= 0:
        raise DeadlineExceededError("the request's deadline has passed")
    keep_s = max(limits.replay_ttl_s, ask.keep_s if ask else 0)
    return [
        header.request_id,
        header.priority,
        keys.tenant_lane(header.tenant),
        header.cost_tokens,
        encode_job(job),
        "" if timeout_ms is None else timeout_ms,
        limits.max_requests,
        limits.max_tokens,
        keep_s * 1000,
        limits.max_attempts,
        f"{limits.tenant_weights.get(header.tenant, 1.0):.12g}",
        limits.aging_ms,
        limits.tenant_max_requests or NO_LIMIT,
        limits.tenant_max_tokens or NO_LIMIT,
        idempotency.digest(header.tenant) if idempotency else "",
        idempotency.fingerprint if idempotency else "",
        ask.request_id if ask else "",
        encode_ask(ask) if ask else "",
        ",".join(map(keys.affinity_name, header.affinity)),
        limits.affinity_hold_ms,
        dead_letter,
        1 if header.background else "",
    ]


class RequestQueue:
    """Every method may be called again after a failure. Raises UnavailableError when Redis is away."""

    def __init__(self, redis: Redis, limits: QueueLimits) -> None:
        self._redis = redis
        self._limits = limits

    async def enqueue(
        self,
        job: Job,
        *,
        idempotency: IdempotencyKey | None = None,
        ask: Ask | None = None,
        timeout_ms: int | None = None,
    ) -> Enqueued:
        """Put a job into its queue; a second time with the same request id it changes nothing.

        ``ask``, the same for all jobs of one HTTP request, is kept until the logs of all of them have expired.
        ``timeout_ms`` is a duration because Redis alone judges the deadline: no host's clock counts, or its jumps.
        An idempotency key belongs to the request until it ends without an answer, or its log is gone.
        Raises OverloadedError when the queue, or the tenant's share of it, is full, DeadlineExceededError when the
        deadline has passed, InvalidRequestError when the priority cannot be ordered.
        """
        header = job.header
        if abs(header.priority) > _MAX_PRIORITY:
            raise InvalidRequestError(
                f"priority must be between -{_MAX_PRIORITY} and {_MAX_PRIORITY}", param="priority"
            )
        code, requests, tokens, work, busy, request_id = await run_script(
            self._redis,
            Script.ENQUEUE,
            keys.base(header.queue),
            *enqueue_args(job, self._limits, idempotency, ask, timeout_ms=timeout_ms),
        )
        result = _ENQUEUE_RESULTS[code]
        if result in (EnqueueResult.FULL, EnqueueResult.TENANT_FULL):
            whose = "the queue is full" if result is EnqueueResult.FULL else "this tenant's share of the queue is full"
            raise OverloadedError(
                f"{whose}: {requests} requests with {tokens} tokens are waiting",
                retry_after_s=retry_after_s(tokens, drain_rate(work, busy)),
            )
        return Enqueued(result, requests, tokens, request_id.decode())

    async def ask(self, queue: str, request_id: str) -> Ask | None:
        """What was asked for under the Ask's own id; None when it is unknown or no longer kept."""
        found = await self.find([queue], request_id)
        return found[1] if found else None

    async def find(self, queues: Sequence[str], request_id: str) -> tuple[str, Ask] | None:
        """The same when nobody knows on which of these queues; returns the queue too. One round trip."""
        return await find_ask(self._redis, queues, request_id)

    async def holder(self, queue: str, tenant: str, idempotency: IdempotencyKey) -> tuple[str, bool] | None:
        """The request that an idempotency key belongs to, and whether its body was the same; None: the key is free.

        It is named by its Ask's id, or by its job's when it has none.
        """
        return await read_holder(self._redis, queue, idempotency.digest(tenant), idempotency.fingerprint)

    async def cancel(self, queue: str, request_id: str, reason: str, *, unless_heard: bool = False) -> CancelOutcome:
        """Stop a request wherever it is. Its stream ends with ``Failed(CANCELLED, reason)``, unless it was faster.

        With ``unless_heard`` only when nobody is subscribed to its channel. The caller's own subscription counts
        until Redis has heard of its end.
        """
        frame = encode_frame([Failed(ErrorCode.CANCELLED, reason)])
        condition = "1" if unless_heard else ""
        code = await run_script(self._redis, Script.CANCEL, keys.base(queue), request_id, reason, frame, condition)
        return _CANCEL_OUTCOMES[code]

    async def depth(self, queue: str) -> QueueDepth:
        """What waits and what runs now."""
        return await read_depth(self._redis, queue)

    async def script_load(self) -> ScriptLoad | None:
        """As ``script_load.script_load``."""
        return await script_load(self._redis)

    async def backlog(self, queue: str) -> Backlog:
        """How much waits, for how long, and how fast it is served: what scaling needs to know."""
        return await read_backlog(self._redis, queue)

    async def survey(self, queue: str, tenants: int) -> Survey:
        """What waits by priority, and by tenant for the ``tenants`` with most of it."""
        return await read_survey(self._redis, queue, tenants)

    async def forget(self, queue: str, ask: Ask) -> None:
        """Drop the Ask and the results of its jobs. One that is not done loses its Ask, and its results soon after its end."""
        await run_script(self._redis, Script.FORGET, keys.base(queue), ask.request_id, *ask.job_ids)

    async def state(self, queue: str, request_id: str) -> RequestState | None:
        """Where a request stands; None when it is unknown, or its result is no longer kept."""
        return await read_state(self._redis, queue, request_id)
