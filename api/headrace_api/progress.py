"""Progress: what the metrics, and the request's timeline, learn of one job from its events."""

from collections.abc import Sequence

from headrace_api.answer_log import AnswerLog
from headrace_api.metrics import Metrics
from headrace_api.timeline import Timeline
from headrace_shared.clock import mono_s
from headrace_shared.protocol.event import Delta, Event, Finished, Started
from headrace_shared.telemetry.series import THE_ENGINE


class Progress:
    """One per job and client."""

    def __init__(
        self,
        metrics: Metrics,
        model: str,
        arrived_s: float,
        timeline: Timeline | None = None,
        answers: AnswerLog | None = None,
    ) -> None:
        """``timeline`` None: somebody else's request is followed. ``answers`` None: nobody wants to read them."""
        self.outcome = "cancelled"
        self._metrics = metrics
        self._model = model
        self._arrived_s = arrived_s
        self._timeline = timeline
        self._answers = answers
        self._gaps = metrics.inter_token.labels(model, THE_ENGINE)
        self._last_s: dict[int, float] = {}
        self._first_s: float | None = None
        self._silent = False
        self._verbatim = timeline is not None and timeline.spans.verbatim
        metrics.in_flight.labels(model).inc()
        if timeline is not None:
            timeline.opened()

    def silence(self) -> None:
        """The events are told again: whoever submitted the request has counted them."""
        self._silent = True

    def saw(self, events: Sequence[Event]) -> None:
        if self._answers is not None and not self._silent:
            self._answers.saw(events)
        now_s = mono_s()
        for event in events:
            # Nearly all events are tokens that follow others, and there may be tens of thousands a second.
            if isinstance(event, Delta) and event.token_ids and event.choice in self._last_s:
                self._gaps.observe(now_s - self._last_s[event.choice])
                self._last_s[event.choice] = now_s
                if event.finish_reason is None and not self._verbatim:
                    continue
            else:
                self._note(event, now_s)
            if self._timeline is not None:
                self._tell(self._timeline, event)

    def close(self) -> None:
        self._metrics.in_flight.labels(self._model).dec()
        if not self._silent:
            self._metrics.generations.labels(self._model, self.outcome).inc()
            if self._answers is not None:
                self._answers.close()
        if self._timeline is not None:
            self._timeline.closed(self.outcome)

    def _tell(self, timeline: Timeline, event: Event) -> None:
        if isinstance(event, Delta):
            timeline.said(event)
        elif isinstance(event, Started):
            timeline.started(event)
        elif isinstance(event, Finished):
            timeline.finished(event)

    def _note(self, event: Event, now_s: float) -> None:
        if isinstance(event, Finished):
            self.outcome = "finished"
        if self._silent:
            return
        if isinstance(event, Delta):
            if event.token_ids:
                self._first_token(event.choice, now_s)
        elif isinstance(event, Started):
            if event.attempt > 1:
                self._metrics.resumed.labels(self._model).inc()
        elif isinstance(event, Finished):
            self._count_end(event, now_s)

    def _first_token(self, choice: int, now_s: float) -> None:
        if self._first_s is None:
            self._first_s = now_s
            self._metrics.time_to_first_token.labels(self._model, THE_ENGINE).observe(now_s - self._arrived_s)
        self._last_s[choice] = now_s

    def _count_end(self, event: Finished, now_s: float) -> None:
        self._metrics.end_to_end.labels(self._model, THE_ENGINE).observe(now_s - self._arrived_s)
        choices = len(self._last_s)
        if self._first_s is not None and event.completion_tokens > choices:
            mean_s = (now_s - self._first_s) * choices / (event.completion_tokens - choices)
            self._metrics.mean_inter_token.labels(self._model, THE_ENGINE).observe(mean_s)
