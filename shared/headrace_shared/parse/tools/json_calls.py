"""Calls as JSON objects: the form of most families.

``<tool_call>{"name": "add", "arguments": {"a": 2}}</tool_call>``, or lists of such objects, with other markers or
without any. Sources: the models' chat templates and vLLM's parsers, which differ only in what JsonForm says.
"""

from dataclasses import dataclass

from headrace_shared.parse.tools import json_text
from headrace_shared.parse.tools.pieces import Pieces
from headrace_shared.parse.tools.source import Malformed, Source, Wait
from headrace_shared.parse.tools.streamed import StreamedParser

_USUAL = ("name", "arguments", "parameters", "type", "id")


@dataclass(frozen=True, slots=True)
class JsonForm:
    """``starts``: what announces calls; one that begins with a bracket is part of them. ``ends``: what may close them.

    ``prefixes``: what may stand between a start and the calls. ``heads``: the brackets that calls begin with, "{" for
    one object and "[" for a list. ``bare``: the answer may begin with them, without a start. ``separator``: what
    objects outside of a list may be separated by; without one an object stands alone. ``strict``: an object with an unknown member or without arguments is no
    call, because without markers any object might be one.
    """

    starts: tuple[str, ...]
    ends: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    heads: str = "{"
    bare: bool = False
    separator: str = ""
    strict: bool = False


class JsonCallsParser(StreamedParser):
    """Reads one answer of that form."""

    def __init__(self, form: JsonForm) -> None:
        super().__init__()
        self._form = form
        self.markers = form.starts

    def _opening(self) -> Wait[None]:
        if self._form.bare and (yield from self._source.following(*self._form.heads)):
            self._put_back(1)
            yield from self._objects()

    def _calls(self, marker: str) -> Wait[None]:
        if marker[0] in self._form.heads:
            self._put_back(len(marker))
        elif self._form.prefixes:
            yield from self._source.following(*self._form.prefixes)
        yield from self._objects()

    def _objects(self) -> Wait[None]:
        source, form = self._source, self._form
        yield from source.skip_space()
        if (yield from source.expect(*form.heads)) == "[":
            yield from rest_of_list(source, self._out, strict=form.strict)
        else:
            yield from rest_of_object(source, self._out, strict=form.strict)
            while form.separator and (found := (yield from source.following(form.separator, "{"))):
                if found != "{":
                    yield from source.skip_space()
                    yield from source.expect("{")
                yield from rest_of_object(source, self._out, strict=form.strict)
        if form.ends:
            yield from source.following(*form.ends)

    def _put_back(self, size: int) -> None:
        """Unreads the marker, before which nothing but white space was read."""
        text = self._source.rejected()
        self._out.content(text[:-size])
        self._source.pending = text[-size:] + self._source.pending


def rest_of_list(source: Source, out: Pieces, *, strict: bool = False) -> Wait[None]:
    """Reads calls after "[", up to "]". An empty list is Malformed: it calls nothing."""
    while True:
        yield from source.skip_space()
        yield from source.expect("{")
        yield from rest_of_object(source, out, strict=strict)
        yield from source.skip_space()
        if (yield from source.expect(",", "]")) == "]":
            source.accept()
            return


def rest_of_object(source: Source, out: Pieces, *, strict: bool = False) -> Wait[None]:
    """Reads one call after "{", up to "}". Its members may come in any order, and others than the known be there."""
    call = _Call(source, out, strict=strict)
    yield from source.skip_space()
    if (yield from source.ahead("}")):
        raise Malformed
    while True:
        yield from source.skip_space()
        key = yield from json_text.string(source)
        yield from source.skip_space()
        yield from source.expect(":")
        yield from source.skip_space()
        yield from call.member(key)
        yield from source.skip_space()
        if (yield from source.expect(",", "}")) == "}":
            break
    call.end()
    source.accept()


class _Call:
    """What is known of a call while its object is read."""

    def __init__(self, source: Source, out: Pieces, *, strict: bool) -> None:
        self._source = source
        self._out = out
        self._strict = strict
        self._name = ""
        self._arguments: str | None = None
        self._told = False

    def member(self, key: str) -> Wait[None]:
        if key == "name" and not self._name:
            self._name = yield from json_text.string(self._source)
        elif key in ("arguments", "parameters") and self._arguments is None:
            self._arguments = yield from self._read_arguments()
        elif self._strict and key not in _USUAL:
            raise Malformed
        else:
            yield from json_text.value(self._source, lambda _: None)

    def end(self) -> None:
        if self._told:
            return
        if not self._name or (self._strict and self._arguments is None):
            raise Malformed
        arguments = json_text.unwrapped(self._arguments or "{}")
        self._out.start(self._name)
        self._out.arguments(arguments)

    def _read_arguments(self) -> Wait[str]:
        if self._name:
            yield from json_text.arguments(self._source, self._out, self._name)
            self._told = True
            return ""
        parts: list[str] = []
        yield from json_text.value(self._source, parts.append)
        return "".join(parts)
