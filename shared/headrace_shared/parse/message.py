"""MessageParser: one answer's text into reasoning, content and calls of tools."""

from collections.abc import Iterable

from headrace_shared.parse.reasoning.parser import Reasoning, ReasoningParser
from headrace_shared.parse.special_tokens import SpecialTokenFilter, SpecialTokens
from headrace_shared.parse.tools.parser import CallArguments, CallStart, Content, ToolParser, ToolPiece

MessagePiece = Reasoning | ToolPiece


class MessageParser:
    """Reasoning is split off first, tools are looked for in the rest. Both ways of telling an answer read it so.

    However the text is cut into pieces, their joined texts come out the same.
    """

    def __init__(
        self,
        reasoning: ReasoningParser | None = None,
        tools: ToolParser | None = None,
        special_tokens: SpecialTokens | None = None,
        most_calls: int | None = None,
    ) -> None:
        """Without a parser its part is not looked for.

        ``special_tokens`` are left out of reasoning and content, and calls after the first ``most_calls`` of all.
        """
        self._reasoning = reasoning
        self._tools = tools
        self._most_calls = most_calls
        self._shown = _ShownText(special_tokens) if special_tokens is not None else None

    @property
    def thinking(self) -> bool:
        """Whether the answer, as far as it is known, is still in its reasoning part."""
        return self._reasoning is not None and self._reasoning.thinking

    def feed(self, text: str) -> list[MessagePiece]:
        """The pieces that are certain after ``text``; no empty ones."""
        return self._told(self._read(text))

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
        return [*self._told(pieces), *(self._shown.finish() if self._shown else ())]

    def _read(self, text: str) -> list[MessagePiece]:
        if self._reasoning is None:
            return list(self._called(text))
        pieces: list[MessagePiece] = []
        for piece in self._reasoning.feed(text):
            if isinstance(piece, Reasoning):
                pieces.append(piece)
            else:
                pieces += self._called(piece.text)
        return pieces

    def _called(self, text: str) -> list[ToolPiece]:
        if self._tools is None:
            return [Content(text)] if text else []
        return self._tools.feed(text)

    def _told(self, pieces: list[MessagePiece]) -> list[MessagePiece]:
        if self._most_calls is not None:
            pieces = [piece for piece in pieces if not _is_call_after(piece, self._most_calls)]
        return pieces if self._shown is None else list(self._shown.feed(pieces))


def _is_call_after(piece: MessagePiece, most_calls: int) -> bool:
    return isinstance(piece, CallStart | CallArguments) and piece.index >= most_calls


class _ShownText:
    """Reasoning and content without special tokens; a text ends where a piece of another kind begins."""

    def __init__(self, tokens: SpecialTokens) -> None:
        self._filter = SpecialTokenFilter(tokens)
        self._kind: type[Reasoning] | type[Content] = Content

    def feed(self, pieces: Iterable[MessagePiece]) -> Iterable[MessagePiece]:
        for piece in pieces:
            if not isinstance(piece, Reasoning | Content):
                yield from self.finish()
                yield piece
                continue
            if type(piece) is not self._kind:
                yield from self.finish()
                self._kind = type(piece)
            if text := self._filter.feed(piece.text):
                yield self._kind(text)

    def finish(self) -> Iterable[MessagePiece]:
        if text := self._filter.finish():
            yield self._kind(text)
