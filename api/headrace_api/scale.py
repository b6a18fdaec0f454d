"""How many workers a model needs: one number, made of its backlog."""

import math

from headrace_api.directory import ListedModel
from headrace_shared.queue.status import Backlog

_SLOTS_OF_UNKNOWN = 1


def desired_workers(backlog: Backlog, listed: ListedModel | None, target_drain_s: float) -> int:
    """``listed`` None: the model has no workers. As many as the running requests fill, and as many as serve what waits within ``target_drain_s``, together.

    Rates and slots are those of an average worker of today. While no rate is known, one more than there are as long as
    anything waits.
    """
    alive, slots = (len(listed.workers), listed.slots) if listed is not None else (0, 0)
    workers = max(alive, 1)
    slots_each = slots / workers or _SLOTS_OF_UNKNOWN
    for_running = backlog.running / slots_each
    if backlog.queued_requests == 0:
        return math.ceil(for_running)
    if not backlog.tokens_per_s:
        return alive + 1
    return math.ceil(for_running + backlog.queued_tokens / (backlog.tokens_per_s / workers * target_drain_s))
