"""BestOf: of more samples than the client wants to see, those that the model finds most likely."""

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import msgspec

from headrace_shared.protocol.event import Delta, Event

Answer = TypeVar("Answer", covariant=True)


class Inner(Protocol[Answer]):
    """Collects the choices that are shown."""

    def feed(self, prompt: int, events: Sequence[Event], /) -> None: ...
    def finish(self) -> Answer: ...


class BestOf(Generic[Answer]):
    """Collects ``samples`` choices of each prompt and passes the ``wanted`` best on, the best first.

    The measure is the sum of the log-probabilities of a choice's tokens, as the OpenAI API defines it.
    """

    def __init__(self, inner: Inner[Answer], prompts: int, samples: int, wanted: int) -> None:
        self._inner = inner
        self._wanted = wanted
        self._events: list[list[Event]] = [[] for _ in range(prompts)]
        self._scores = [[0.0] * samples for _ in range(prompts)]

    def feed(self, prompt: int, events: Sequence[Event]) -> None:
        self._events[prompt] += events
        for event in events:
            if isinstance(event, Delta):
                self._scores[prompt][event.choice] += sum(entry.logprob for entry in event.logprobs or ())

    def finish(self) -> Answer:
        for prompt, (events, scores) in enumerate(zip(self._events, self._scores, strict=True)):
            best = sorted((-score, choice) for choice, score in enumerate(scores))
            places = {choice: place for place, (_, choice) in enumerate(best[: self._wanted])}
            self._inner.feed(prompt, [_placed(event, places) for event in events if _is_shown(event, places)])
        return self._inner.finish()


def _is_shown(event: Event, places: dict[int, int]) -> bool:
    return not isinstance(event, Delta) or event.choice in places


def _placed(event: Event, places: dict[int, int]) -> Event:
    return msgspec.structs.replace(event, choice=places[event.choice]) if isinstance(event, Delta) else event
