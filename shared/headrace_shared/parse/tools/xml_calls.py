"""Calls with a tag for each argument: Qwen3 Coder's, Seed OSS's, MiniMax M2's and GLM 4.5's.

Qwen3 Coder::

    <tool_call>
    <function=add>
    <parameter=a>
    2
    </parameter>
    </function>
    </tool_call>

Values are plain text, so JSON is made of them by the tool's schema. Sources: the models' chat templates.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from headrace_shared.parse.tools.python_text import to_json
from headrace_shared.parse.tools.source import NAME, Malformed, Wait
from headrace_shared.parse.tools.streamed import StreamedParser
from headrace_shared.parse.tools.tool import Tool
from headrace_shared.parse.tools.typed_value import typed_value

_KEY = re.compile(r"[^\n<>\"]")


@dataclass(frozen=True, slots=True)
class XmlForm:
    """The tags in the order in which they come; an empty one is not written.

    ``value_ends``: what ends a value; one other than the first stands for a tag that the model has forgotten, and is
    read again. ``padded``: a line break at each end of a value belongs to the form. ``untyped``: see ``typed_value``.
    """

    opening: str
    call_begin: str
    name_end: str
    argument_begin: str
    key_end: str
    value_begin: str
    value_ends: tuple[str, ...]
    call_end: str
    closing: str
    padded: bool = False
    untyped: str = "string"


class XmlCallsParser(StreamedParser):
    """Reads one answer of that form; each argument is told when it is complete."""

    def __init__(self, form: XmlForm, tools: Sequence[Tool]) -> None:
        super().__init__()
        self._form = form
        self._tools = tools
        self.markers = tuple(filter(None, (form.opening, form.call_begin)))

    def _calls(self, marker: str) -> Wait[None]:
        source, form = self._source, self._form
        if marker == form.opening and form.call_begin:
            yield from source.skip_space()
            yield from source.expect(form.call_begin)
        while True:
            yield from self._call()
            after = tuple(filter(None, (form.call_begin, form.closing)))
            if not after or (yield from source.following(*after)) != form.call_begin:
                return
            source.accept()

    def _call(self) -> Wait[None]:
        source, form, out = self._source, self._form, self._out
        yield from source.skip_space()
        name = yield from source.word(NAME)
        if form.name_end:
            yield from source.expect(form.name_end)
        yield from source.skip_space()
        if (yield from self._next_tag()) is None:
            raise Malformed
        out.start(name)
        out.arguments("{")
        source.accept()
        told = 0
        while (yield from self._next_tag()) == form.argument_begin:
            argument = yield from self._argument(name)
            out.arguments(f"{', ' if told else ''}{argument}")
            source.accept()
            told += 1
            yield from source.skip_space()
        end = yield from source.expect(form.call_end, *filter(None, (form.closing,)))
        if end == form.closing:
            source.untake(end)
        source.accept()
        out.arguments("}")

    def _next_tag(self) -> Wait[str | None]:
        form = self._form
        tags = (form.argument_begin, form.call_end, form.closing or form.call_end)
        found = yield from self._source.ahead(*tags)
        if found is None and any(tag.startswith(self._source.pending) for tag in tags):
            yield from self._source.more()
        return found

    def _argument(self, name: str) -> Wait[str]:
        source, form = self._source, self._form
        source.take(len(form.argument_begin))
        key = (yield from source.word(_KEY)).strip()
        yield from source.expect(form.key_end)
        if form.value_begin:
            yield from source.skip_space()
            yield from source.expect(form.value_begin)
        parts: list[str] = []
        end = yield from source.until(*form.value_ends, sink=parts.append)
        if end != form.value_ends[0]:
            source.untake(end)
        text = "".join(parts)
        if form.padded:
            text = text.removeprefix("\n").removesuffix("\n")
        return f"{to_json(key)}: {typed_value(text, self._tools, name, key, untyped=form.untyped)}"
