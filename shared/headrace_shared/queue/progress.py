"""Progress: how much of an answer a reader has had, so that an answer told again is cut to what is new.

Whoever tells it again may put other tokens into one frame, but says the same ones: decoding is a function of the job
and of the position alone. So counting is enough, per choice, tokens and characters by themselves, as text may lag behind.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from headrace_shared.protocol.event import Delta, Event, PromptScored, Started


@dataclass(slots=True)
class _Point:
    """A place in the output of one choice."""

    tokens: int = 0
    chars: int = 0


class Progress:
    """Everything that is handed out goes through ``take``."""

    def __init__(self) -> None:
        self._had: dict[int, _Point] = {}
        self._told: dict[int, _Point] = {}
        self._ended: set[int] = set()
        self._starts: set[tuple[str, int]] = set()
        self._scored = False

    def tell_again(self) -> None:
        """From here on the answer is told from its beginning."""
        self._told = {}

    def take(self, events: Sequence[Event]) -> list[Event]:
        """What is new of these events; a Delta that was had in part is split."""
        return [new for event in events if (new := self._new_of(event)) is not None]

    def _new_of(self, event: Event) -> Event | None:
        if isinstance(event, Delta):
            return self._rest_of(event)
        if isinstance(event, Started):
            start = (event.worker, event.attempt)
            known = start in self._starts
            self._starts.add(start)
            return None if known else event
        if isinstance(event, PromptScored):
            known, self._scored = self._scored, True
            return None if known else event
        return event

    def _rest_of(self, delta: Delta) -> Delta | None:
        told = self._told.setdefault(delta.choice, _Point())
        had = self._had.setdefault(delta.choice, _Point())
        old_tokens, old_chars = had.tokens - told.tokens, had.chars - told.chars
        told.tokens += len(delta.token_ids)
        told.chars += len(delta.text)
        if delta.choice in self._ended:
            return None
        if delta.finish_reason is not None:
            self._ended.add(delta.choice)
        had.tokens, had.chars = max(had.tokens, told.tokens), max(had.chars, told.chars)
        if old_tokens <= 0 and old_chars <= 0:
            return delta
        rest = Delta(
            delta.choice,
            delta.token_ids[old_tokens:] if old_tokens > 0 else delta.token_ids,
            delta.text[old_chars:] if old_chars > 0 else delta.text,
            delta.logprobs[max(old_tokens, 0) :] if delta.logprobs is not None else None,
            delta.finish_reason,
            delta.stop_reason,
        )
        return rest if rest.token_ids or rest.text or rest.finish_reason is not None else None
