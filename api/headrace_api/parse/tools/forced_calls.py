"""Calls as plain JSON: what answers are held to where a family's own form has no grammar.

A named function's answer is its arguments, ``{"city": "Rome"}``. One in which some functions have to be called is an
array: ``[{"name": "weather", "parameters": {"city": "Rome"}}]``. Source: vLLM's guided decoding of ``tool_choice``.
"""

import re
from enum import Enum, auto

from headrace_api.parse.tools.parser import CallArguments, CallStart, Content, ToolPiece

_HEAD = re.compile(r'\s*[\[,]\s*\{\s*"name"\s*:\s*"((?:[^"\\]|\\.)*)"\s*,\s*"parameters"\s*:\s*(?=\{)')
_TAIL = re.compile(r"\s*\}(?=\s*[\],])")
_END = re.compile(r"\s*\]\s*")


class NamedCallParser:
    """The whole answer is the arguments of one function."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._begun = False

    def feed(self, text: str) -> list[ToolPiece]:
        if not text:
            return []
        start: list[ToolPiece] = [] if self._begun else [CallStart(0, self._name)]
        self._begun = True
        return [*start, CallArguments(0, text)]

    def finish(self) -> list[ToolPiece]:
        return []


class _Part(Enum):
    BETWEEN = auto()  # before a call, or the array's end
    ARGUMENTS = auto()
    AFTER_ARGUMENTS = auto()
    REST = auto()  # of no known form


class CallArrayParser:
    """The whole answer is an array of calls."""

    def __init__(self) -> None:
        self._pending = ""
        self._part = _Part.BETWEEN
        self._calls = 0
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def feed(self, text: str) -> list[ToolPiece]:
        self._pending += text
        pieces: list[ToolPiece] = []
        while self._pending and self._read(pieces):
            pass
        return pieces

    def finish(self) -> list[ToolPiece]:
        rest, self._pending = self._pending, ""
        if self._part is _Part.AFTER_ARGUMENTS or (self._calls and _END.fullmatch(rest)) or not rest:
            return []
        return [Content(rest)]

    def _read(self, pieces: list[ToolPiece]) -> bool:
        """Reads on in the part that the text is in; False when that needs more text."""
        match self._part:
            case _Part.BETWEEN:
                return self._begin(pieces)
            case _Part.ARGUMENTS:
                return self._arguments(pieces)
            case _Part.AFTER_ARGUMENTS:
                return self._end()
            case _Part.REST:
                pieces.append(Content(self._pending))
                self._pending = ""
                return False

    def _begin(self, pieces: list[ToolPiece]) -> bool:
        if not self._pending.lstrip().startswith(("[", ",", "]")) and self._pending.strip():
            self._part = _Part.REST
            return True
        head = _HEAD.match(self._pending)
        if head is None:
            return False
        pieces.append(CallStart(self._calls, _unescaped(head[1])))
        self._calls += 1
        self._pending = self._pending[head.end() :]
        self._part = _Part.ARGUMENTS
        return True

    def _arguments(self, pieces: list[ToolPiece]) -> bool:
        end = next((at + 1 for at, char in enumerate(self._pending) if self._closes(char)), None)
        text, self._pending = self._pending[:end], "" if end is None else self._pending[end:]
        pieces.append(CallArguments(self._calls - 1, text))
        if end is not None:
            self._part = _Part.AFTER_ARGUMENTS
        return True

    def _closes(self, char: str) -> bool:
        """Goes on by a character of the arguments; whether it was their last."""
        if self._in_string:
            ends = char == '"' and not self._escaped
            self._escaped = char == "\\" and not self._escaped
            self._in_string = not ends
            return False
        if char == '"':
            self._in_string = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
            return self._depth == 0
        return False

    def _end(self) -> bool:
        tail = _TAIL.match(self._pending)
        if tail is None:
            return False
        self._pending = self._pending[tail.end() :]
        self._part = _Part.BETWEEN
        return True


def _unescaped(name: str) -> str:
    """A name has word characters, which JSON may write as escapes."""
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), name)
