"""What the metrics learn of answers that are read for calls, counted as vLLM counts."""

from headrace_api.metrics import Metrics
from headrace_api.operations.tool_use import ToolReader
from headrace_shared.parse.tools.parser import Content, ToolParser, ToolPiece
from headrace_shared.telemetry.tallies import CountTally

_REQUEST_TYPES = {"chat": "chat_completions", "responses": "responses"}


def counted(reader: ToolReader, metrics: Metrics, model: str, endpoint: str, *, streaming: bool) -> ToolReader:
    """Parsers that count: when streaming every piece of an answer that is read, else every choice."""
    labels = model, "streaming" if streaming else "non_streaming"
    request_type = _REQUEST_TYPES.get(endpoint, "other")
    calls = metrics.tool_parsers.labels(*labels, "tool_call", request_type)
    none = metrics.tool_parsers.labels(*labels, "no_tool_call", request_type)
    return lambda tail: _CountedParser(reader(tail), calls, none, each_piece=streaming)


class _CountedParser:
    def __init__(self, parser: ToolParser, calls: CountTally, none: CountTally, *, each_piece: bool) -> None:
        self._parser = parser
        self._calls = calls
        self._none = none
        self._each_piece = each_piece
        self._called = False

    def feed(self, text: str) -> list[ToolPiece]:
        pieces = self._parser.feed(text)
        self._note(pieces)
        if self._each_piece:
            self._count()
        return pieces

    def finish(self) -> list[ToolPiece]:
        pieces = self._parser.finish()
        self._note(pieces)
        if not self._each_piece:
            self._count()
        return pieces

    def _note(self, pieces: list[ToolPiece]) -> None:
        self._called = self._called or any(not isinstance(piece, Content) for piece in pieces)

    def _count(self) -> None:
        (self._calls if self._called else self._none).inc()
        if self._each_piece:
            self._called = False
