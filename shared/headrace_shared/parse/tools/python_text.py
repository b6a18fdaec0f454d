"""Literals of Python as models write them in calls, turned into JSON. Nothing is evaluated."""

import json
import re
from typing import Any

from headrace_shared.parse.tools.source import Cut, Malformed, Source, Wait, finished

_WORD = re.compile(r"[\w.+\-]")
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+\-]?\d+)?", re.ASCII)
_CONSTANTS = {"None": "null", "True": "true", "False": "false", "null": "null", "true": "true", "false": "false"}
_STRING_MARK = re.compile(r"[\\'\"]")
_ESCAPE = re.compile(r"\\(x[\da-fA-F]{2}|u[\da-fA-F]{4}|U[\da-fA-F]{8}|[0-7]{1,3}|.)", re.DOTALL)
_ESCAPED = {
    **{"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v"},
    **{"\\": "\\", "'": "'", '"': '"', "\n": ""},
}
_CLOSERS = {"[": "]", "(": ")", "{": "}"}
_MAX_DEPTH = 100


def to_json(value: Any) -> str:
    """JSON text that can be sent as UTF-8."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def literal_to_json(text: str) -> str | None:
    """The JSON text of a whole literal; None for other text."""
    source = Source(text.strip(), ended=True)
    # A word's end is seen at the character after it.
    source.pending += "\n"
    try:
        converted = finished(literal(source))
    except (Malformed, Cut):
        return None
    return converted if source.pending == "\n" else None


def literal(source: Source, depth: int = 0) -> Wait[str]:
    """Reads a string, number, constant, list, tuple or dictionary and returns its JSON text. Else raises Malformed."""
    yield from source.skip_space()
    head = yield from source.peek()
    if head in "'\"":
        return to_json((yield from _string(source)))
    if head not in _CLOSERS:
        return _scalar((yield from source.word(_WORD)))
    if depth == _MAX_DEPTH:
        raise Malformed
    source.take(1)
    parts: list[str] = []
    while True:
        yield from source.skip_space()
        if (yield from source.ahead(_CLOSERS[head])):
            break
        part = yield from literal(source, depth + 1)
        if head == "{":
            yield from source.skip_space()
            yield from source.expect(":")
            part = f"{_key(part)}: {yield from literal(source, depth + 1)}"
        parts.append(part)
        yield from source.skip_space()
        if (yield from source.ahead(",", _CLOSERS[head])) == ",":
            source.take(1)
    yield from source.expect(_CLOSERS[head])
    joined = ", ".join(parts)
    return f"{{{joined}}}" if head == "{" else f"[{joined}]"


def number(text: str) -> str | None:
    """The JSON text of a number, as it is written if JSON writes it so; None for what is none."""
    if _JSON_NUMBER.fullmatch(text):
        return text
    try:
        return json.dumps(int(text, 0))
    except ValueError:
        pass
    try:
        return json.dumps(float(text), allow_nan=False)
    except ValueError:
        return None


def _scalar(word: str) -> str:
    text = _CONSTANTS.get(word) or number(word)
    if text is None:
        raise Malformed
    return text


def _key(json_text: str) -> str:
    if json_text[0] in "[{":
        raise Malformed
    return json_text if json_text[0] == '"' else to_json(json_text)


def _string(source: Source) -> Wait[str]:
    quote = source.pending[0]
    size = 1
    long = yield from source.ahead(quote * 3, quote * 2, quote)
    if long == quote * 2:
        source.take(2)
        return ""
    if long == quote * 3:
        quote, size = quote * 3, 3
    at = size
    while True:
        mark = _STRING_MARK.search(source.pending, at)
        at = mark.start() if mark else len(source.pending)
        if mark and mark[0] == "\\" and at + 1 < len(source.pending):
            at += 2
        elif mark and source.pending.startswith(quote, at):
            return _unescaped(source.take(at + size)[size:-size])
        elif mark and not (quote.startswith(source.pending[at:]) or mark[0] == "\\"):
            at += 1
        else:
            yield from source.more()


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    escape = match[1]
    if escape[0] in "xuU" and len(escape) > 1:
        code = int(escape[1:], 16)
        return chr(code) if code <= 0x10FFFF else match[0]
    if escape[0] in "01234567":
        return chr(int(escape, 8))
    return _ESCAPED.get(escape, match[0])
