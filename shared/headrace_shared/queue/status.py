"""Where requests and queues stand: states, positions, backlogs, and how long things will take."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from redis.asyncio import Redis

from headrace_shared.queue import keys
from headrace_shared.queue.scripts import Script, run_script

_KNOWN_AFTER_MS = 200
"""Of busy time; a rate from less is chance."""
_RETRY_AFTER_S = (1.0, 60.0)
_SHARE_TO_DRAIN = 0.1
"""Whoever was refused comes back when so much of the backlog is gone; with the first free place most would be refused again."""


class RequestPhase(StrEnum):
    """The state of a request in words."""

    QUEUED = "queued"
    RUNNING = "running"
    RESUMING = "resuming"
    """Queued again: the worker that ran it was lost, or gave it back."""
    FINISHED = "finished"
    """Its answer is complete."""
    FAILED = "failed"
    """It ended without one: refused, cancelled, expired or given up. The last event of its log says which."""


_PHASES = {b"Q": RequestPhase.QUEUED, b"R": RequestPhase.RUNNING, b"O": RequestPhase.RESUMING}


@dataclass(frozen=True, slots=True)
class RequestState:
    """One request. Times are milliseconds of Redis' clock."""

    request_id: str
    phase: RequestPhase
    priority: int
    tenant: str
    enqueued_ms: int
    claimed_ms: int | None
    """When its present or last owner took it."""
    first_token_ms: int | None
    finished_ms: int | None
    attempts: int
    """Workers that have owned it."""
    lost_workers: int
    """Those of them that died."""
    seq: int
    """Frames in its log."""
    cancel_requested: bool
    ahead: int | None
    """About how many requests will be served before it; None unless it waits."""
    eta_ms: int | None
    """About how long until it is served; None when it does not wait, or nothing is known of the rate."""


@dataclass(frozen=True, slots=True)
class QueueDepth:
    queued_requests: int
    queued_tokens: int
    running: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """``tokens`` as in ``JobHeader.cost_tokens``, so that tokens / rate is a time."""

    queued_requests: int
    queued_tokens: int
    running: int
    oldest_ms: int
    """How long the request that waits longest has been waiting; 0 when none does."""
    tokens_per_s: float | None
    """Rate of late, while busy; None when nothing is known."""


@dataclass(frozen=True, slots=True)
class Share:
    """A part of what waits."""

    requests: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Survey:
    """What waits, taken apart. Larger than what may be asked for at every request."""

    by_priority: dict[int, Share]
    by_tenant: dict[str, Share]
    """Of those with most requests."""
    dead_letters: int


def drain_rate(work: bytes | None, busy: bytes | None) -> float | None:
    """Tokens per second from the two sums of the ``pace`` hash."""
    busy_ms = float(busy or 0)
    return float(work or 0) * 1000 / busy_ms if busy_ms >= _KNOWN_AFTER_MS else None


def retry_after_s(queued_tokens: int, tokens_per_s: float | None) -> float:
    """When a refused client should come back."""
    least, most = _RETRY_AFTER_S
    if not tokens_per_s:
        return least
    return min(max(queued_tokens * _SHARE_TO_DRAIN / tokens_per_s, least), most)


async def read_depth(redis: Redis, queue: str) -> QueueDepth:
    requests, tokens, running, *_ = await run_script(redis, Script.BACKLOG, keys.base(queue))
    return QueueDepth(requests, tokens, running)


async def read_backlog(redis: Redis, queue: str) -> Backlog:
    requests, tokens, running, waited_ms, work, busy = await run_script(redis, Script.BACKLOG, keys.base(queue))
    return Backlog(requests, tokens, running, waited_ms, drain_rate(work, busy))


async def read_survey(redis: Redis, queue: str, tenants: int) -> Survey:
    priorities, shares, dead = await run_script(redis, Script.SURVEY, keys.base(queue), tenants)
    return Survey(
        by_priority={int(float(name)): share for name, share in _shares(priorities)},
        by_tenant={keys.tenant_of(name.decode()): share for name, share in _shares(shares)},
        dead_letters=dead,
    )


def _shares(flat: list[Any]) -> Iterator[tuple[bytes, Share]]:
    for start in range(0, len(flat), 3):
        name, requests, tokens = flat[start : start + 3]
        yield name, Share(max(requests, 0), max(tokens, 0))


async def read_state(redis: Redis, queue: str, request_id: str) -> RequestState | None:
    row = await run_script(redis, Script.DESCRIBE, keys.base(queue), request_id)
    if not row:
        return None
    state, priority, lane, enqueued, claimed, first, finished, attempts, lost, seq, answered, cancel = row[:12]
    ahead, requests, tokens, work, busy = row[12:]
    done = RequestPhase.FINISHED if answered == b"1" else RequestPhase.FAILED
    return RequestState(
        request_id=request_id,
        phase=_PHASES.get(state, done),
        priority=int(priority),
        tenant=keys.tenant_of(lane.decode()),
        enqueued_ms=int(enqueued),
        claimed_ms=_ms(claimed),
        first_token_ms=_ms(first),
        finished_ms=_ms(finished),
        attempts=int(attempts or 0),
        lost_workers=int(lost),
        seq=int(seq),
        cancel_requested=cancel != b"",
        ahead=ahead if ahead >= 0 else None,
        eta_ms=_eta_ms(ahead, int(requests or 0), int(tokens or 0), drain_rate(work, busy)),
    )


def _ms(value: bytes) -> int | None:
    return int(value) if value else None


def _eta_ms(ahead: int, requests: int, tokens: int, tokens_per_s: float | None) -> int | None:
    """Those ahead are taken to be as large as the average of all that wait."""
    if ahead < 0 or not tokens_per_s or not requests:
        return None
    return round(ahead * tokens / requests / tokens_per_s * 1000)
