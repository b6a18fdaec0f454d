"""GET /v1/requests/{id}."""

from collections.abc import Iterable, Sequence

import msgspec


class Phase(msgspec.Struct, frozen=True):
    """``queued``, ``prefill`` or ``decode``; milliseconds from the moment it was put into the queue."""

    name: str
    start_ms: int
    end_ms: int | None
    """null while it lasts."""


class JobReport(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt's part. Durations count from the moment it was put into the queue."""

    id: str
    status: str
    ahead: int | None
    """About how many requests will be served before it; null when it does not wait."""
    eta_ms: int | None
    """About how long until it is served; null when it does not wait, or nothing is known of the rate."""
    queued_ms: int | None
    """Until its present or last worker took it."""
    time_to_first_token_ms: int | None
    total_ms: int | None
    phases: list[Phase]
    """What it has been through so far, and what it is in; a request that was continued is told as by its last worker."""
    attempts: int
    """Workers that have owned it."""
    lost_workers: int
    """Those of them that died."""
    cancel_requested: bool

    @classmethod
    def of_all(cls, request_id: str, status: str, jobs: "Sequence[JobReport]") -> "JobReport":
        """The first token and the first worker of any job, the end of the last one."""
        totals = [job.total_ms for job in jobs if job.total_ms is not None]
        return cls(
            id=request_id,
            status=status,
            ahead=_least(job.ahead for job in jobs),
            eta_ms=_least(job.eta_ms for job in jobs),
            queued_ms=_least(job.queued_ms for job in jobs),
            time_to_first_token_ms=_least(job.time_to_first_token_ms for job in jobs),
            total_ms=max(totals) if len(totals) == len(jobs) else None,
            phases=jobs[0].phases if len(jobs) == 1 else [],
            attempts=max(job.attempts for job in jobs),
            lost_workers=max(job.lost_workers for job in jobs),
            cancel_requested=any(job.cancel_requested for job in jobs),
        )


class RequestReport(JobReport, frozen=True, kw_only=True):
    """Where a whole request stands: ``queued``, ``running``, ``resuming``, ``finished`` or ``failed``."""

    object: str = "request"
    endpoint: str
    model: str
    created: int
    priority: int
    jobs: list[JobReport]
    """One per prompt, when there are several."""


def _least(values: Iterable[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)
