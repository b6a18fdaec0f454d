"""StreamedParser: what all parsers of one answer have in common."""

from headrace_shared.parse.tools.parser import ToolPiece
from headrace_shared.parse.tools.pieces import Pieces
from headrace_shared.parse.tools.source import Cut, Malformed, Source, Wait, overlap

# What is pending is copied as it is read: in slices, the time that a long text takes grows with its length only.
_SLICE_CHARS = 1024


class StreamedParser:
    """Looks for the markers in an answer's text and lets a family's class read what follows each.

    What that class has read but not accepted comes out as content when it raises Malformed, and the text after it is
    looked through as before. A call that the answer's end cuts off keeps the arguments that were told; when none has
    begun after the marker, that comes out as content.
    """

    markers: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._source = Source()
        self._out = Pieces()
        self._steps = self._answer()

    def feed(self, text: str) -> list[ToolPiece]:
        for begin in range(0, len(text), _SLICE_CHARS):
            self._source.pending += text[begin : begin + _SLICE_CHARS]
            next(self._steps, None)
        return self._out.take()

    def finish(self) -> list[ToolPiece]:
        self._source.ended = True
        next(self._steps, None)
        self._out.end()
        return self._out.take()

    def _opening(self) -> Wait[None]:
        """Reads calls without a marker at the answer's beginning, where the family has such."""
        yield from ()

    def _calls(self, marker: str) -> Wait[None]:
        """Reads the calls after a marker, which is read already."""
        raise NotImplementedError

    def _answer(self) -> Wait[None]:
        yield from self._attempt(self._opening())
        while marker := (yield from self._text()):
            yield from self._attempt(self._calls(marker))

    def _attempt(self, reading: Wait[None]) -> Wait[None]:
        calls = self._out.calls
        try:
            yield from reading
        except Malformed:
            self._out.content(self._source.rejected())
        except Cut:
            self._source.take_all()
            if self._out.calls == calls:
                self._out.content(self._source.rejected())
        self._source.accept()

    def _text(self) -> Wait[str]:
        """Content up to a marker; an empty one at the answer's end."""
        source = self._source
        while True:
            pending = source.pending
            found = [(at, -len(marker), marker) for marker in self.markers if (at := pending.find(marker)) >= 0]
            if found:
                at, _, marker = min(found)
                self._tell(at)
                return source.take(len(marker))
            held = 0 if source.ended else max((overlap(pending, marker) for marker in self.markers), default=0)
            self._tell(len(pending) - held)
            if source.ended:
                return ""
            yield

    def _tell(self, size: int) -> None:
        if size:
            self._out.content(self._source.take(size))
        self._source.accept()
