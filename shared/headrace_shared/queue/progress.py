"""Progress: how much of an answer a reader has had, so that an answer told again is cut to what is new.

Whoever tells it again may put other tokens into one frame, but says the same ones: decoding is a function of the job
and of the position alone. So counting is enough, per choice, tokens and characters by themselves, as text may lag behind.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from headrace_shared.protocol.event import Delta, Event, PromptScored, Started


@dataclass(slots=True)
class _Choice:
    """How much of one choice was handed out, and how much was told since its last beginning."""

    had_tokens: int = 0
    had_chars: int = 0
    told_tokens: int = 0
    told_chars: int = 0
    ended: bool = False


class Progress:
    """Everything that is handed out goes through ``take``."""

    def __init__(self) -> None:
        self._choices: dict[int, _Choice] = {}
        self._starts: set[tuple[str, int]] = set()
        self._scored = False

    def tell_again(self) -> None:
        """From here on the answer is told from its beginning."""
        for choice in self._choices.values():
            choice.told_tokens = choice.told_chars = 0

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
        choice = self._choices.get(delta.choice)
        if choice is None:
            choice = self._choices[delta.choice] = _Choice()
        old_tokens = choice.had_tokens - choice.told_tokens
        old_chars = choice.had_chars - choice.told_chars
        choice.told_tokens += len(delta.token_ids)
        choice.told_chars += len(delta.text)
        if choice.ended:
            return None
        choice.ended = delta.finish_reason is not None
        choice.had_tokens = max(choice.had_tokens, choice.told_tokens)
        choice.had_chars = max(choice.had_chars, choice.told_chars)
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
