"""The answers of models that a grammar forces to call tools, in a form that is not their own."""

from headrace_shared.parse.tools.json_calls import JsonCallsParser, JsonForm
from headrace_shared.parse.tools.parser import Content, ToolPiece
from headrace_shared.parse.tools.pieces import Pieces


def required_calls() -> JsonCallsParser:
    """Reads ``[{"name": "add", "parameters": {"a": 2}}]``: what ``tool_choice: "required"`` makes a model write."""
    return JsonCallsParser(JsonForm(starts=(), heads="[", bare=True))


class NamedCallParser:
    """Reads the arguments of the one call that ``tool_choice`` names: the whole answer is their text."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._out = Pieces()
        self._blank = ""

    def feed(self, text: str) -> list[ToolPiece]:
        if not self._out.calls:
            self._blank += text
            text = self._blank.lstrip()
            if text:
                self._out.start(self._name)
        if text:
            self._out.arguments(text)
        return self._out.take()

    def finish(self) -> list[ToolPiece]:
        """An answer of nothing but white space is no call."""
        return [] if self._out.calls or not self._blank else [Content(self._blank)]
