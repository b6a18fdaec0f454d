"""Prelude: what an answer may begin with before its grammar applies."""

from dataclasses import dataclass
from enum import Enum, auto


@dataclass(frozen=True, slots=True)
class Prelude:
    """Begins with one of ``starts`` after white space at most, and ends with the first of ``ends``.

    Without starts every answer begins with a prelude.
    """

    ends: tuple[bytes, ...]
    starts: tuple[bytes, ...] = ()


class PreludePart(Enum):
    """Where an answer is."""

    OPENING = auto()  # a start may come, or the grammar begins
    INSIDE = auto()
    OVER = auto()


class PreludeReader:
    """Follows one answer: a pure function of its text."""

    def __init__(self, prelude: Prelude | None) -> None:
        """None: the grammar begins at once."""
        self._prelude = prelude or Prelude(())
        self.part = PreludePart.OVER if prelude is None else PreludePart.OPENING
        if prelude is not None and not prelude.starts:
            self.part = PreludePart.INSIDE
        self.opening = b""
        """The answer so far, while it may become a start."""
        self._keep = max(map(len, self._prelude.ends), default=1) - 1
        self._tail = b""
        """The end of the text inside, in which an end may have begun."""

    def grammar_begins(self) -> None:
        """The answer has no prelude."""
        self.part = PreludePart.OVER

    def feed(self, token: bytes) -> None:
        """Go on by a token of the prelude."""
        if self.part is PreludePart.OPENING:
            self._open(self.opening + token)
        elif self.part is PreludePart.INSIDE:
            self._look_for_end(token)

    def may_open(self) -> bool:
        """Whether a start may still come."""
        return any(start.startswith(self.opening.lstrip()) for start in self._prelude.starts)

    def _open(self, text: bytes) -> None:
        head = text.lstrip()
        self.opening = text
        started = next((start for start in self._prelude.starts if head.startswith(start)), None)
        if started is not None:
            self.part = PreludePart.INSIDE
            self._look_for_end(head.removeprefix(started))

    def _look_for_end(self, token: bytes) -> None:
        text = self._tail + token
        if any(end in text for end in self._prelude.ends):
            self.part = PreludePart.OVER
        self._tail = text[-self._keep :] if self._keep else b""
