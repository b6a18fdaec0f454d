"""Mistral's calls, of every generation of its tokenizers (source: mistral-common's ``InstructTokenizer``).

Up to V7 a list: ``[TOOL_CALLS] [{"name": "add", "arguments": {"a": 2}}]``. Since V11 names stand before arguments, each
call after a marker: ``[TOOL_CALLS]add[ARGS]{"a": 2}``, some with an id, ``[TOOL_CALLS]add[CALL_ID]abc123def[ARGS]{}``;
where the tokenizer has no ``[ARGS]`` it is ``[TOOL_CALLS]add{"a": 2}``.
"""

from headrace_shared.parse.tools import json_text
from headrace_shared.parse.tools.json_calls import JsonCallsParser, JsonForm
from headrace_shared.parse.tools.source import NAME, Wait

MARKER, CALL_ID, ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"


class MistralParser(JsonCallsParser):
    """Reads one answer of any generation."""

    def __init__(self) -> None:
        super().__init__(JsonForm(starts=(MARKER,), heads="[{"))

    def _calls(self, marker: str) -> Wait[None]:
        source = self._source
        yield from source.skip_space()
        if (yield from source.ahead("[", "{")):
            yield from self._objects()
            return
        name = yield from source.word(NAME)
        before = yield from source.expect(CALL_ID, ARGUMENTS, "{")
        if before == "{":
            source.untake(before)
        elif before == CALL_ID:
            yield from source.word(NAME)
            yield from source.expect(ARGUMENTS)
        yield from json_text.arguments(source, self._out, name)
