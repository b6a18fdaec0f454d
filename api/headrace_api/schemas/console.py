"""The console: what its events carry, and what it may ask for. Durations are milliseconds, moments wall clock."""

from typing import Annotated

import msgspec
from pydantic import Field

from headrace_api.schemas.base import RequestModel


class WorkerRow(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that holds a lease."""

    id: str
    state: str
    host: str
    started_ms: int
    lease_ms: int | None
    """What was left of its lease when the fleet was looked at last."""
    kv_blocks_total: int
    kv_blocks_free: int
    running: int
    waiting: int
    max_num_seqs: int
    tokens_per_s: float
    step_ms: float
    prefix_hit_rate: float


class LaneRow(msgspec.Struct, frozen=True, kw_only=True):
    """What waits with one priority."""

    priority: int
    requests: int
    tokens: int
    oldest_ms: int | None


class ModelRow(msgspec.Struct, frozen=True, kw_only=True):
    """A model and its queue."""

    name: str
    up: bool
    """Whether it can be asked for. One without a ready worker is told while requests wait for it, and for some minutes."""
    queue: str
    slots: int
    queued_requests: int
    queued_tokens: int
    running: int
    oldest_ms: int
    drain_tokens_per_s: float | None
    desired_workers: int
    dead_letters: int
    lanes: list[LaneRow]
    """The most urgent first."""
    workers: list[WorkerRow]


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One second of the charts, of the whole fleet. All but tokens is of the last ten seconds, of all API processes."""

    at_ms: int
    tokens_per_s: float
    requests_per_s: float
    """Generation requests that ended."""
    in_flight: int
    ttft_p50_ms: float | None
    """null: no token came, as below."""
    ttft_p95_ms: float | None
    itl_p50_ms: float | None
    itl_p95_ms: float | None


class RequestRow(msgspec.Struct, frozen=True, kw_only=True):
    """A request that came to this process. Marks count from its arrival; null: not reached."""

    id: str
    endpoint: str
    model: str
    tenant: str
    priority: int
    arrived_ms: int
    prepared_ms: float | None
    enqueued_ms: float | None
    queue_ms: float | None
    """How long it waited in the queue."""
    first_token_ms: float | None
    ended_ms: float | None
    attempts: int
    prompt_tokens: int
    completion_tokens: int
    outcome: str


class DeadLetterRow(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was given up."""

    queue: str
    id: str
    request_id: str
    tenant: str
    worker: str
    lost: int
    died_ms: int
    """Redis' clock."""


class BatchRow(msgspec.Struct, frozen=True, kw_only=True):
    """A batch. Moments are seconds since 1970."""

    id: str
    status: str
    model: str | None
    endpoint: str
    tenant: str
    created_at: int
    expires_at: int
    ended_at: int | None
    total: int
    """0 until its input is checked."""
    completed: int
    failed: int
    items_per_s: float | None
    """Over the last half minute while it is worked on, over all afterwards."""
    left_s: float | None
    """At that rate; null: that cannot be said."""
    problem: str | None
    """Why it failed."""


class Shared(msgspec.Struct, frozen=True, kw_only=True):
    """What every viewer sees."""

    node: str
    version: str
    now_ms: int
    taken_ms: int
    """When the fleet was looked at last; 0: never."""
    redis: bool
    point: Point
    models: list[ModelRow]


class Own(msgspec.Struct, frozen=True, kw_only=True):
    """What depends on whose key it is."""

    admin: bool
    requests: list[RequestRow]
    """The newest first: one's own, an administrator's are everybody's."""
    batches: list[BatchRow]
    """The same, of the whole fleet: the newest, and those that are not done."""
    dead_letters: list[DeadLetterRow]
    """For administrators alone."""


class RetryDeadLetter(RequestModel):
    """Which one: both as the console shows them."""

    queue: Annotated[str, Field(min_length=1, max_length=256)]
    id: Annotated[str, Field(pattern=r"^\d{1,19}-\d{1,19}$")]


class RetriedDeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """The request that it has become."""

    request_id: str
    object: str = "dead_letter.retried"
