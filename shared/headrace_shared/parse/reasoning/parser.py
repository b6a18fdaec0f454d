"""What a reasoning parser makes of a raw answer."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text of the model's thoughts, without the markers around them."""

    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Text that is meant for the client; it may hold tool calls, which are left as they are."""

    text: str


Piece = Reasoning | Answer


class ReasoningParser(Protocol):
    """Reads one answer. However the text is cut into pieces, their joined texts come out the same.

    Never raises: what does not have the expected form comes out as text of the part that it is in.
    """

    def feed(self, text: str) -> list[Piece]:
        """The pieces that are certain after ``text``; no empty ones. What may begin a marker is held back."""
        ...

    def finish(self) -> list[Piece]:
        """To be called once, at the answer's end: what was held back."""
        ...

    @property
    def thinking(self) -> bool:
        """Whether the answer, as far as it is known, is still in its reasoning part."""
        ...
