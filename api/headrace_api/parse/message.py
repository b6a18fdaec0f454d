"""MessageParser: one answer's text into reasoning, content and calls of tools."""

from headrace_api.parse.reasoning.parser import Reasoning, ReasoningParser
from headrace_api.parse.tools.parser import Content, ToolParser, ToolPiece

MessagePiece = Reasoning | ToolPiece


class MessageParser:
    """Reasoning is split off first, tools are looked for in the rest. Both ways of telling an answer read it so.

    However the text is cut into pieces, their joined texts come out the same.
    """

    def __init__(self, reasoning: ReasoningParser | None = None, tools: ToolParser | None = None) -> None:
        """Without a parser its part is not looked for."""
        self._reasoning = reasoning
        self._tools = tools

    @property
    def thinking(self) -> bool:
        """Whether the answer, as far as it is known, is still in its reasoning part."""
        return self._reasoning is not None and self._reasoning.thinking

    def feed(self, text: str) -> list[MessagePiece]:
        """The pieces that are certain after ``text``; no empty ones."""
        if self._reasoning is None:
            return list(self._called(text))
        pieces: list[MessagePiece] = []
        for piece in self._reasoning.feed(text):
            if isinstance(piece, Reasoning):
                pieces.append(piece)
            else:
                pieces += self._called(piece.text)
        return pieces

    def finish(self) -> list[MessagePiece]:
        """To be called once, at the answer's end: what was held back."""
        pieces: list[MessagePiece] = []
        for piece in self._reasoning.finish() if self._reasoning else ():
            if isinstance(piece, Reasoning):
                pieces.append(piece)
            else:
                pieces += self._called(piece.text)
        if self._tools is not None:
            pieces += self._tools.finish()
        return pieces

    def _called(self, text: str) -> list[ToolPiece]:
        if self._tools is None:
            return [Content(text)] if text else []
        return self._tools.feed(text)
