"""Progress: what the metrics learn of one request from its events."""

from collections.abc import Sequence

from headrace_api.metrics import Metrics
from headrace_shared.clock import mono_s
from headrace_shared.protocol.event import Delta, Event, Finished, Started


class Progress:
    """One per request and client."""

    def __init__(self, metrics: Metrics, model: str, arrived_s: float) -> None:
        self.outcome = "cancelled"
        self._metrics = metrics
        self._model = model
        self._arrived_s = arrived_s
        self._inter_token = metrics.inter_token.labels(model)
        self._last_s: dict[int, float] = {}
        self._silent = False
        metrics.in_flight.labels(model).inc()

    def silence(self) -> None:
        """The events are told again: whoever submitted the request has counted them."""
        self._silent = True

    def saw(self, events: Sequence[Event]) -> None:
        now_s = mono_s()
        for event in events:
            if isinstance(event, Finished):
                self.outcome = "finished"
            if not self._silent:
                self._count(event, now_s)

    def close(self) -> None:
        self._metrics.in_flight.labels(self._model).dec()
        if not self._silent:
            self._metrics.generations.labels(self._model, self.outcome).inc()

    def _count(self, event: Event, now_s: float) -> None:
        if isinstance(event, Delta):
            if event.token_ids:
                self._count_delta(event.choice, now_s)
        elif isinstance(event, Started):
            if event.attempt > 1:
                self._metrics.continuations.labels(self._model).inc()
        elif isinstance(event, Finished):
            self._metrics.end_to_end.labels(self._model).observe(now_s - self._arrived_s)
            self._metrics.prompt_tokens.labels(self._model).inc(event.prompt_tokens)
            self._metrics.generated_tokens.labels(self._model).inc(event.completion_tokens)

    def _count_delta(self, choice: int, now_s: float) -> None:
        if choice in self._last_s:
            self._inter_token.observe(now_s - self._last_s[choice])
        elif not self._last_s:
            self._metrics.time_to_first_token.labels(self._model).observe(now_s - self._arrived_s)
        self._last_s[choice] = now_s
