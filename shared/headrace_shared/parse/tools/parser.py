"""What a tool parser makes of an answer."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Content:
    """Text that is meant for the user, without the markers around calls."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """The model calls a tool. ``index`` counts an answer's calls from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the JSON text of a call's arguments; its ``CallStart`` has come before, and no later one."""

    index: int
    text: str


ToolPiece = Content | CallStart | CallArguments


class ToolParser(Protocol):
    """Reads one answer. However the text is cut into pieces, their joined texts come out the same.

    Never raises: what does not have the expected form comes out as content, as the model has written it. A call that
    is begun but cut off keeps the arguments that it has got.
    """

    def feed(self, text: str) -> list[ToolPiece]:
        """The pieces that are certain after ``text``; no empty ones. What may begin a marker is held back."""
        ...

    def finish(self) -> list[ToolPiece]:
        """To be called once, at the answer's end: what was held back."""
        ...
