"""Paced: fewer and larger events in a stream."""

from collections.abc import Sequence
from typing import Protocol

import msgspec
from msgspec import UNSET, UnsetType

from headrace_shared.errors import HeadraceError
from headrace_shared.protocol.event import Delta, Event


class Inner(Protocol):
    """Renders events as they are handed on."""

    def open(self) -> bytes: ...
    def feed(self, prompt: int, events: Sequence[Event], /) -> bytes: ...
    def finish(self) -> bytes: ...
    def fail(self, error: HeadraceError, /) -> bytes: ...
    def break_off(self, error: HeadraceError, resume: str | UnsetType = UNSET, /) -> bytes: ...


class Paced:
    """Joins the deltas of a choice until they have ``interval`` tokens; its first and its last go on at once.

    What is joined depends on a prompt's events alone, not on how many come at once.
    """

    def __init__(self, inner: Inner, interval: int) -> None:
        self._inner = inner
        self._interval = interval
        self._begun: set[tuple[int, int]] = set()
        self._held: dict[tuple[int, int], Delta] = {}

    def open(self) -> bytes:
        return self._inner.open()

    def feed(self, prompt: int, events: Sequence[Event]) -> bytes:
        """As the inner renderer's; b"" while deltas are held."""
        passed: list[Event] = []
        for event in events:
            due = self._due(prompt, event) if isinstance(event, Delta) else event
            if due is not None:
                passed.append(due)
        return self._inner.feed(prompt, passed) if passed else b""

    def finish(self) -> bytes:
        """As the inner renderer's, with what is held before it."""
        return self._rest() + self._inner.finish()

    def fail(self, error: HeadraceError) -> bytes:
        """Likewise."""
        return self._rest() + self._inner.fail(error)

    def break_off(self, error: HeadraceError, resume: str | UnsetType = UNSET) -> bytes:
        """As the inner renderer's; what is held is told by whoever tells the rest."""
        return self._inner.break_off(error, resume)

    def _rest(self) -> bytes:
        held = sorted(self._held.items(), key=lambda each: each[0])
        self._held = {}
        return b"".join([self._inner.feed(prompt, [delta]) for (prompt, _), delta in held])

    def _due(self, prompt: int, delta: Delta) -> Delta | None:
        key = prompt, delta.choice
        held = self._held.pop(key, None)
        joined = delta if held is None else _joined(held, delta)
        if key in self._begun and joined.finish_reason is None and len(joined.token_ids) < self._interval:
            self._held[key] = joined
            return None
        self._begun.add(key)
        return joined


def _joined(first: Delta, second: Delta) -> Delta:
    logprobs = None
    if first.logprobs is not None or second.logprobs is not None:
        logprobs = [*(first.logprobs or ()), *(second.logprobs or ())]
    return msgspec.structs.replace(
        second, token_ids=first.token_ids + second.token_ids, text=first.text + second.text, logprobs=logprobs
    )
