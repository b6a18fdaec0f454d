"""How many workers a model needs, and the backlog that this is made of."""

from headrace_api.operations.services import Services
from headrace_api.scale import desired_workers
from headrace_api.schemas.autoscale import ScaleSignals


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
