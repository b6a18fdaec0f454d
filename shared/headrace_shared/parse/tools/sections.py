"""Calls whose names stand before JSON arguments, in sections of their own: DeepSeek's and Kimi's.

DeepSeek V3 and R1, of which V3.1 leaves out the type and the fence (sources: their chat templates; the
markers' bars are full-width, their low lines U+2581)::

    <|tool_calls_begin|><|tool_call_begin|>function<|tool_sep|>add
    ```json
    {"a": 2}
    ```<|tool_call_end|><|tool_calls_end|>

Kimi K2 (source: ``docs/tool_call_guidance.md`` of the model)::

    <|tool_calls_section_begin|><|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>{"a": 2}<|tool_call_end|>
    <|tool_calls_section_end|>
"""

import re

from headrace_shared.parse.tools import json_text
from headrace_shared.parse.tools.source import NAME, Malformed, Wait
from headrace_shared.parse.tools.streamed import StreamedParser

_KIMI_NAME = re.compile(r"(?:functions\.)?(?P<name>.+?)(?::\d+)?")


class SectionParser(StreamedParser):
    """Reads a section call by call; a section's marks may be missing."""

    section_begin = ""
    section_end = ""
    call_begin = ""
    call_end = ""

    def __init__(self) -> None:
        super().__init__()
        self.markers = (self.section_begin, self.call_begin)

    def _calls(self, marker: str) -> Wait[None]:
        source = self._source
        if marker == self.section_begin:
            yield from source.skip_space()
            yield from source.expect(self.call_begin)
        while True:
            yield from self._call()
            if not (yield from source.following(self.call_end)):
                raise Malformed
            source.accept()
            if (yield from source.following(self.call_begin, self.section_end)) != self.call_begin:
                return

    def _call(self) -> Wait[None]:
        """Reads a call between its marks."""
        raise NotImplementedError


class DeepSeekParser(SectionParser):
    """Reads one answer of DeepSeek V3, R1 or V3.1."""

    section_begin = "<\uff5ctool\u2581calls\u2581begin\uff5c>"
    section_end = "<\uff5ctool\u2581calls\u2581end\uff5c>"
    call_begin = "<\uff5ctool\u2581call\u2581begin\uff5c>"
    call_end = "<\uff5ctool\u2581call\u2581end\uff5c>"
    separator = "<\uff5ctool\u2581sep\uff5c>"

    def _call(self) -> Wait[None]:
        source = self._source
        yield from source.skip_space()
        name = yield from source.word(NAME)
        yield from source.expect(self.separator)
        yield from source.skip_space()
        if NAME.match((yield from source.peek())):  # the first word was the type
            name = yield from source.word(NAME)
        fenced = yield from source.following("```json")
        yield from json_text.arguments(source, self._out, name, (self.call_end, "```"))
        if fenced:
            yield from source.following("```")


class KimiParser(SectionParser):
    """Reads one answer of Kimi K2."""

    section_begin = "<|tool_calls_section_begin|>"
    section_end = "<|tool_calls_section_end|>"
    call_begin = "<|tool_call_begin|>"
    call_end = "<|tool_call_end|>"
    arguments_begin = "<|tool_call_argument_begin|>"

    def _call(self) -> Wait[None]:
        source = self._source
        yield from source.skip_space()
        match = _KIMI_NAME.fullmatch((yield from source.word(NAME)))
        if match is None:
            raise Malformed
        yield from source.skip_space()
        yield from source.expect(self.arguments_begin)
        yield from json_text.arguments(source, self._out, match["name"], (self.call_end,))
