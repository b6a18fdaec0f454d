"""JSON as models write it: read while it is generated, passed on as it is written."""

import json
import re
from collections.abc import Callable
from typing import Any

from headrace_shared.parse.tools.pieces import Pieces
from headrace_shared.parse.tools.source import Malformed, Source, Wait

_INSIDE_STRING = re.compile(r'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
# What JSON has outside of strings, but brackets: enough to notice that a value is none, or that it is not closed.
_OUTSIDE_STRING = re.compile(r"[\s,:0-9+\-.eEtrufalsn]*")
_SCALAR = re.compile(r"[\w+\-.]")
_OBJECT_HEAD = re.compile(r"\{\s*(\S)?")
_CLOSERS = {"{": "}", "[": "]"}


def value(source: Source, sink: Callable[[str], object]) -> Wait[None]:
    """Reads one value; ``sink`` gets its text as it comes. Raises Malformed for what cannot be one."""
    head = yield from source.peek()
    if head not in '{["':
        text = yield from source.word(_SCALAR)
        if not isinstance(decoded(text), int | float | None):
            raise Malformed
        sink(text)
        return
    extent = _Extent()
    while True:
        sink(source.take(extent.scan(source.pending)))
        if extent.broken:
            raise Malformed
        if extent.complete:
            return
        yield from source.more()


def string(source: Source) -> Wait[str]:
    """Reads a string and returns what it means."""
    if (yield from source.peek()) != '"':
        raise Malformed
    parts: list[str] = []
    yield from value(source, parts.append)
    text = decoded("".join(parts))
    if not isinstance(text, str):
        raise Malformed
    return text


def decoded(text: str) -> Any:
    """The value of JSON text. Raises Malformed for other text, and for strings that cannot be sent on as UTF-8."""
    try:
        result = json.loads(text, strict=False, parse_constant=_refuse)
        if isinstance(result, str):
            result.encode()
    except (ValueError, RecursionError) as error:
        raise Malformed from error
    return result


def arguments(source: Source, out: Pieces, name: str, empty: tuple[str, ...] = ()) -> Wait[None]:
    """Reads a call's arguments; the call begins when it is certain that they do.

    They are an object, or one in a string, or null for none. ``empty``: what follows arguments that are left out.
    """
    yield from source.skip_space()
    if empty and (yield from source.ahead(*empty)):
        _tell(source, out, name, "{}")
    elif (yield from source.peek()) == "{":
        yield from _object_begins(source)
        out.start(name)
        source.accept()
        yield from value(source, passed_on(source, out))
    else:
        parts: list[str] = []
        yield from value(source, parts.append)
        _tell(source, out, name, unwrapped("".join(parts)))


def passed_on(source: Source, out: Pieces) -> Callable[[str], None]:
    """A sink for a call's arguments."""

    def sink(text: str) -> None:
        out.arguments(text)
        source.accept()

    return sink


def unwrapped(text: str) -> str:
    """The object's text in the JSON text of arguments. Raises Malformed for other values than ``arguments`` takes."""
    if text.startswith("{"):
        return text
    inner = decoded(text)
    if inner is not None and not isinstance(inner, str):
        raise Malformed
    return (inner or "").strip() or "{}"


def _tell(source: Source, out: Pieces, name: str, text: str) -> None:
    out.start(name)
    out.arguments(text)
    source.accept()


def _object_begins(source: Source) -> Wait[None]:
    """Waits until it is certain that an object comes next and no dictionary of Python's."""
    while True:
        head = _OBJECT_HEAD.match(source.pending)
        if head is None or head[1] not in (None, '"', "}"):
            raise Malformed
        if head[1] is not None:
            return
        yield from source.more()


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


class _Extent:
    """How far a value goes that begins with a bracket or a quote."""

    def __init__(self) -> None:
        self.complete = False
        self.broken = False
        self._closers: list[str] = []
        self._in_string = False

    def scan(self, text: str) -> int:
        """How many characters of the value's next text belong to it. Half an escape has to be given again."""
        at = 0
        while at < len(text) and not self.complete and not self.broken:
            pattern = _INSIDE_STRING if self._in_string else _OUTSIDE_STRING
            matched = pattern.match(text, at)
            at = matched.end() if matched else at
            if at == len(text) or (self._in_string and text[at] == "\\"):
                return at
            self._step(text[at])
            at += not self.broken
        return at

    def _step(self, char: str) -> None:
        if char == '"':
            self._in_string = not self._in_string
        elif char in _CLOSERS:
            self._closers.append(_CLOSERS[char])
        elif self._closers and char == self._closers[-1]:
            self._closers.pop()
        else:
            self.broken = True
        self.complete = not self._closers and not self._in_string and not self.broken
