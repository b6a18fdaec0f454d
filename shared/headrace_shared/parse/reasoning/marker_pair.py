"""Reasoning between two markers, then the answer: the form of most models."""

from dataclasses import dataclass
from enum import Enum, auto

from headrace_shared.parse.reasoning.marked_text import MarkedText
from headrace_shared.parse.reasoning.parser import Answer, Piece, Reasoning


@dataclass(frozen=True, slots=True)
class Wrapper:
    """Markers around the answer itself. Line breaks next to any marker then belong to the marker."""

    start: str
    end: str


@dataclass(frozen=True, slots=True)
class MarkerPair:
    """The form of an answer: ``<start>reasoning<end>answer``.

    ``starts`` and ``ends`` are spellings of the same marker. ``ended_by``: what also ends the reasoning, and is part
    of the answer. ``unmarked_is_reasoning``: what an answer begins with when neither it nor the prompt has a start.
    """

    starts: tuple[str, ...] = ("<think>",)
    ends: tuple[str, ...] = ("</think>",)
    ended_by: tuple[str, ...] = ()
    unmarked_is_reasoning: bool = True
    wrapper: Wrapper | None = None

    def parser(self, prompt_tail: str) -> "MarkerPairParser":
        """For an answer to a prompt that ends so."""
        tail = prompt_tail.rstrip()
        return MarkerPairParser(self, opened=tail.endswith(self.starts), closed=tail.endswith(self.ends))


class _Part(Enum):
    OPENING = auto()  # nothing but white space so far
    THINKING = auto()
    AFTER_THINKING = auto()  # the wrapper's start may follow
    WRAPPED = auto()
    ANSWER = auto()


class MarkerPairParser:
    """Reads one answer of that form.

    The start counts only at the very beginning: a later one is text. So is all that follows the end.
    """

    def __init__(self, form: MarkerPair, *, opened: bool, closed: bool) -> None:
        """``opened``, ``closed``: the prompt ends with a start, or with an end."""
        self._form = form
        self._text = MarkedText()
        self._unmarked = _Part.THINKING if form.unmarked_is_reasoning or opened else _Part.AFTER_THINKING
        self._part = _Part.AFTER_THINKING if closed else _Part.OPENING
        self._drops_breaks = closed and form.wrapper is not None

    @property
    def thinking(self) -> bool:
        part = self._unmarked if self._part is _Part.OPENING else self._part
        return part is _Part.THINKING

    def feed(self, text: str) -> list[Piece]:
        self._text.pending += text
        pieces: list[Piece] = []
        while self._read(pieces):
            pass
        return pieces

    def finish(self) -> list[Piece]:
        thinking = self.thinking
        rest = self._text.take()
        if not rest:
            return []
        return [Reasoning(rest) if thinking else Answer(rest)]

    def _read(self, pieces: list[Piece]) -> bool:
        """Reads on in the part that the text is in; False when that needs more text."""
        if self._drops_breaks:
            self._text.pending = self._text.pending.lstrip("\n")
            self._drops_breaks = not self._text.pending
        if not self._text.pending:
            return False
        match self._part:
            case _Part.OPENING:
                return self._open()
            case _Part.THINKING:
                return self._think(pieces)
            case _Part.AFTER_THINKING:
                return self._unwrap()
            case _Part.WRAPPED:
                return self._answer(pieces)
            case _Part.ANSWER:
                pieces.append(Answer(self._text.take()))
                return False

    def _open(self) -> bool:
        head = self._text.pending.lstrip()
        for start in self._form.starts:
            if head.startswith(start):
                self._text.pending = head.removeprefix(start)
                self._enter(_Part.THINKING)
                return True
        if any(start.startswith(head) for start in self._form.starts):
            return False
        self._part = self._unmarked
        return True

    def _think(self, pieces: list[Piece]) -> bool:
        ends = self._with_break(self._form.ends)
        stretch = self._text.read((*ends, *self._form.ended_by))
        if stretch.text:
            pieces.append(Reasoning(stretch.text))
        if stretch.marker is None:
            return False
        if stretch.marker in self._form.ended_by:
            self._text.pending = stretch.marker + self._text.pending
        self._enter(_Part.AFTER_THINKING)
        return True

    def _unwrap(self) -> bool:
        wrapper = self._form.wrapper
        if wrapper is None:
            self._part = _Part.ANSWER
            return True
        if self._text.pending.startswith(wrapper.start):
            self._text.pending = self._text.pending.removeprefix(wrapper.start)
            self._enter(_Part.WRAPPED)
            return True
        if wrapper.start.startswith(self._text.pending):
            return False
        self._part = _Part.ANSWER
        return True

    def _answer(self, pieces: list[Piece]) -> bool:
        ends = self._with_break((self._form.wrapper.end,)) if self._form.wrapper else ()
        stretch = self._text.read(ends)
        if stretch.text:
            pieces.append(Answer(stretch.text))
        if stretch.marker is None:
            return False
        self._enter(_Part.ANSWER)
        return True

    def _enter(self, part: _Part) -> None:
        self._part = part
        self._drops_breaks = self._form.wrapper is not None

    def _with_break(self, ends: tuple[str, ...]) -> tuple[str, ...]:
        return ends if self._form.wrapper is None else (*("\n" + end for end in ends), *ends)
