"""What a parser has found, in the order in which it is told."""

from headrace_shared.parse.tools.parser import CallArguments, CallStart, Content, ToolPiece


class Pieces:
    """Collects pieces and counts calls.

    White space at the answer's beginning or after a call is told only if text follows it: next to calls it belongs to
    the form. Of an answer without calls nothing is left out.
    """

    def __init__(self) -> None:
        self._pieces: list[ToolPiece] = []
        self._index = -1
        self._blank = ""
        self._after_text = False

    @property
    def calls(self) -> int:
        """How many calls have begun."""
        return self._index + 1

    def take(self) -> list[ToolPiece]:
        """What was found since the last time."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def content(self, text: str) -> None:
        if not self._after_text:
            self._blank += text
            text = ""
            if self._blank.strip():
                text, self._blank, self._after_text = self._blank, "", True
        if not text:
            return
        last = self._pieces[-1] if self._pieces else None
        if isinstance(last, Content):
            self._pieces[-1] = Content(last.text + text)
        else:
            self._pieces.append(Content(text))

    def start(self, name: str) -> None:
        """A call begins."""
        self._blank = ""
        self._after_text = False
        self._index += 1
        self._pieces.append(CallStart(self._index, name))

    def arguments(self, text: str) -> None:
        last = self._pieces[-1] if self._pieces else None
        if isinstance(last, CallArguments):
            self._pieces[-1] = CallArguments(self._index, last.text + text)
        elif text:
            self._pieces.append(CallArguments(self._index, text))

    def end(self) -> None:
        """The answer ends."""
        if self._blank and self._index < 0:
            self._pieces.append(Content(self._blank))
        self._blank = ""
