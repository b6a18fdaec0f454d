"""Text that arrives in pieces, read by parsers that are written as if it were all there."""

import re
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")
Wait = Generator[None, None, T]
"""What a reading function is: it yields when it needs more text, and returns what it has read."""

_MAX_WORD_CHARS = 256
NAME = re.compile(r"[\w.\-:/]")
"""The characters of tools' names."""


class Malformed(Exception):  # noqa: N818 - not an error of ours: the model has written something else
    """The text has not the expected form."""


class Cut(Exception):  # noqa: N818 - see above
    """The answer ends here, but the form goes on."""


class Source:
    """What was fed and not read yet, and what was read but not accepted yet.

    Whatever a reading function decides depends on the text alone, never on how it is cut: while the text so far does
    not decide, it waits.
    """

    def __init__(self, pending: str = "", *, ended: bool = False) -> None:
        self.pending = pending
        self.ended = ended
        self._read: list[str] = []

    def accept(self) -> None:
        """What was read is part of a call."""
        self._read.clear()

    @property
    def unaccepted(self) -> str:
        """What was read since the last ``accept``."""
        return "".join(self._read)

    def rejected(self) -> str:
        """What was read since the last ``accept``; it is no part of a call."""
        text = self.unaccepted
        self._read.clear()
        return text

    def untake(self, text: str) -> None:
        """Unreads ``text``, which is what was read last, in one piece."""
        self._read.pop()
        self.pending = text + self.pending

    def take(self, size: int) -> str:
        """Reads so many characters of what is pending."""
        text, self.pending = self.pending[:size], self.pending[size:]
        self._read.append(text)
        return text

    def take_all(self) -> str:
        """Reads all that is pending."""
        return self.take(len(self.pending))

    def more(self) -> Wait[None]:
        """Waits for more text. Raises Cut when there will be none."""
        if self.ended:
            raise Cut
        yield

    def peek(self) -> Wait[str]:
        """The next character, which is not read."""
        while not self.pending:
            yield from self.more()
        return self.pending[0]

    def skip_space(self) -> Wait[None]:
        """Reads white space, if there is any."""
        while True:
            self.take(len(self.pending) - len(self.pending.lstrip()))
            if self.pending or self.ended:
                return
            yield

    def ahead(self, *texts: str) -> Wait[str | None]:
        """The longest of the texts that comes next, which is not read; None when none does."""
        while not self.ended and any(text != self.pending and text.startswith(self.pending) for text in texts):
            yield
        return max((text for text in texts if self.pending.startswith(text)), key=len, default=None)

    def expect(self, *texts: str) -> Wait[str]:
        """Reads the one of the texts that comes next. Raises Malformed when none does."""
        found = yield from self.ahead(*texts)
        if found is None:
            if any(text.startswith(self.pending) for text in texts):
                raise Cut
            raise Malformed
        return self.take(len(found))

    def following(self, *texts: str) -> Wait[str | None]:
        """Reads white space and the one of the texts that comes after it; nothing when none does.

        The beginning of one at the answer's end counts: who reads the answer should not see half a marker.
        """
        while not self.ended and any(text != self._next and text.startswith(self._next) for text in texts):
            yield
        rest = self._next
        found = max((text for text in texts if rest.startswith(text)), key=len, default=None)
        if found is None and self.ended and rest:
            found = next((text for text in texts if text.startswith(rest)), None)
        if found is not None:
            self.take(len(self.pending) - len(rest) + len(found))
        return found

    def word(self, characters: re.Pattern[str]) -> Wait[str]:
        """Reads the longest run of such characters. Raises Malformed when there is none, or it is too long for a name."""
        size = 0
        while True:
            while size < len(self.pending) and characters.match(self.pending, size):
                size += 1
            if size > _MAX_WORD_CHARS or (size == 0 and self.pending):
                raise Malformed
            if size < len(self.pending):
                return self.take(size)
            yield from self.more()

    def until(self, *markers: str, sink: Callable[[str], object] = lambda _: None) -> Wait[str]:
        """Reads up to the first of the markers and over it, and returns it. ``sink`` gets the text before it."""
        while True:
            found = [(at, -len(marker), marker) for marker in markers if (at := self.pending.find(marker)) >= 0]
            if found:
                at, _, marker = min(found)
                sink(self.take(at))
                return self.take(len(marker))
            held = 0 if self.ended else max(overlap(self.pending, marker) for marker in markers)
            sink(self.take(len(self.pending) - held))
            yield from self.more()

    @property
    def _next(self) -> str:
        return self.pending.lstrip()


def overlap(text: str, marker: str) -> int:
    """How many characters at the end of ``text`` may begin ``marker``."""
    at = text.find(marker[0], max(0, len(text) - len(marker) + 1))
    while at >= 0 and not marker.startswith(text[at:]):
        at = text.find(marker[0], at + 1)
    return len(text) - at if at >= 0 else 0


def finished(reading: Wait[T]) -> T:
    """What a reading function returns whose source has ended. Raises what it raises."""
    try:
        next(reading)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("a source that has ended has nothing to wait for")
