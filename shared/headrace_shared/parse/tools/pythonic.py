"""Calls as Python writes them: ``[add(a=2, b=3), now()]``.

Sources: Meta's description of Llama 3.2's and Llama 4's prompt formats; Olmo 3's chat template, in which calls stand in
lines between ``<function_calls>`` and ``</function_calls>``.
"""

import re
from dataclasses import dataclass

from headrace_shared.parse.tools.python_text import literal, to_json
from headrace_shared.parse.tools.source import Malformed, Wait
from headrace_shared.parse.tools.streamed import StreamedParser

_NAME = re.compile(r"[\w.\-]")


@dataclass(frozen=True, slots=True)
class PythonicForm:
    """``start``, ``end``: the markers around calls, if there are any. ``listed``: calls stand in brackets, and at the
    answer's beginning do without a marker."""

    start: str = ""
    end: str = ""
    listed: bool = True


class PythonicParser(StreamedParser):
    """Reads one answer of that form; each argument is told when it is complete."""

    def __init__(self, form: PythonicForm) -> None:
        super().__init__()
        self._form = form
        self.markers = (form.start,) if form.start else ()

    def _opening(self) -> Wait[None]:
        if self._form.listed and (yield from self._source.following("[")):
            yield from self._list()

    def _calls(self, marker: str) -> Wait[None]:
        if self._form.listed:
            yield from self._source.skip_space()
            yield from self._source.expect("[")
        yield from self._list()

    def _list(self) -> Wait[None]:
        source, form = self._source, self._form
        while True:
            yield from source.skip_space()
            yield from self._call()
            if form.listed:
                yield from source.skip_space()
                if (yield from source.expect(",", "]")) == "]":
                    source.accept()
                    break
            elif (yield from source.following(form.end)):
                return
            else:
                yield from source.following(",")
                source.accept()
        if form.end:
            yield from source.following(form.end)

    def _call(self) -> Wait[None]:
        source, out = self._source, self._out
        name = yield from source.word(_NAME)
        yield from source.expect("(")
        yield from source.skip_space()
        told = 0
        while not (yield from source.ahead(")")):
            key = yield from source.word(_NAME)
            yield from source.skip_space()
            yield from source.expect("=")
            if not told:
                self._begin(name)
            value = yield from literal(source)
            out.arguments(f"{', ' if told else ''}{to_json(key)}: {value}")
            source.accept()
            told += 1
            yield from source.skip_space()
            if (yield from source.ahead(",", ")")) == ",":
                source.take(1)
                yield from source.skip_space()
            elif not (yield from source.ahead(")")):
                raise Malformed
        if not told:
            self._begin(name)
        source.take(1)
        source.accept()
        out.arguments("}")

    def _begin(self, name: str) -> None:
        self._out.start(name)
        self._out.arguments("{")
        self._source.accept()
