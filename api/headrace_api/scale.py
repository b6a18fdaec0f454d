"""How many workers a model needs: one number, made of its backlog."""

import math

from headrace_api.directory import ListedModel
from headrace_shared.queue.status import Backlog

_SLOTS_OF_UNKNOWN = 1


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
