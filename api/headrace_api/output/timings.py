"""A request's own timings, for clients that ask for them: vLLM's ``metrics`` object.

They are taken from the last event alone, so that an answer told again has the same ones.
"""

from collections.abc import Iterable

from msgspec import UNSET, UnsetType

from headrace_api.schemas.request_metrics import RequestMetrics
from headrace_shared.protocol.event import Event, Finished


class Timings:
    """Waits for the last event. Not ``wanted``, it has nothing to tell."""

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self.metrics: RequestMetrics | UnsetType = UNSET

    def feed(self, events: Iterable[Event]) -> None:
        if self._wanted:
            for event in events:
                if isinstance(event, Finished):
                    self.metrics = RequestMetrics.of(event)
