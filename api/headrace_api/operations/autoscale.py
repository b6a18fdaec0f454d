"""How many workers a model needs: its backlog, and one number made of it."""

import math

from headrace_api.directory import ListedModel
from headrace_api.operations.services import Services
from headrace_api.schemas.autoscale import ScaleSignals
from headrace_shared.queue.status import Backlog

_SLOTS_OF_UNKNOWN = 1


async def signals(
    name: str, target_drain_s: float, at_least: int, at_most: int | None, services: Services
) -> ScaleSignals:
    """Raises ModelNotFoundError, UnavailableError."""
    listed = services.directory.find(name)
    card = listed.model.card
    backlog = await services.queue.backlog(card.queue)
    wanted = max(desired_workers(backlog, listed, target_drain_s), at_least)
    rate = backlog.tokens_per_s
    return ScaleSignals(
        model=card.name,
        queued_requests=backlog.queued_requests,
        queued_tokens=backlog.queued_tokens,
        running=backlog.running,
        oldest_ms=backlog.oldest_ms,
        tokens_per_s=rate,
        workers=len(listed.workers),
        slots=listed.slots,
        drain_s=backlog.queued_tokens / rate if rate else None,
        desired_workers=wanted if at_most is None else min(wanted, at_most),
    )


def desired_workers(backlog: Backlog, listed: ListedModel, target_drain_s: float) -> int:
    """As many as the running requests fill, and as many as serve what waits within ``target_drain_s``, together.

    Rates and slots are those of an average worker of today. While no rate is known, one more than there are as long as
    anything waits.
    """
    workers = max(len(listed.workers), 1)
    slots_each = listed.slots / workers or _SLOTS_OF_UNKNOWN
    for_running = backlog.running / slots_each
    if backlog.queued_requests == 0:
        return math.ceil(for_running)
    if not backlog.tokens_per_s:
        return workers + 1
    return math.ceil(for_running + backlog.queued_tokens / (backlog.tokens_per_s / workers * target_drain_s))
