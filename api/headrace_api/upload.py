"""A form with one file in it, read while it arrives: the file is handed on in pieces and never held."""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import python_multipart
from python_multipart.exceptions import FormParserError

from headrace_shared.errors import ErrorCode, HeadraceError, InvalidRequestError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_LONGEST_FIELD = 64 * 1024
_FILE = "file"
KeepFile = Callable[[AsyncIterator[bytes]], Awaitable[int]]
"""Puts a file somewhere, and says how many bytes it had."""


@dataclass(slots=True)
class Form:
    """What was sent. ``filename`` None: there was no file."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    bytes: int = 0


async def read_form(content_type: str, body: AsyncIterator[bytes], keep: KeepFile) -> Form:
    """Read a ``multipart/form-data`` body; ``keep`` gets what its part ``file`` holds.

    Raises InvalidRequestError for what is no such form, a 415 for what is not called one, and what ``keep`` raises.
    """
    kind, options = python_multipart.multipart.parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise HeadraceError(
            "The body must be a form, sent with the header 'Content-Type: multipart/form-data'.",
            code=ErrorCode.UNSUPPORTED_MEDIA_TYPE,
        )
    form = Form()
    events = _events(boundary, body)
    try:
        async for part in events:
            name, filename = _names(part)
            if name == _FILE and filename is not None:
                if form.filename is not None:
                    raise InvalidRequestError("file: should be one file, got several.", param=_FILE)
                form.filename = filename
                form.bytes = await keep(_rest(events))
            else:
                form.fields[name] = await _text(name, _rest(events))
    except FormParserError as error:
        raise InvalidRequestError(f"The body is not a valid form: {error}.") from None
    return form


async def _events(boundary: bytes, body: AsyncIterator[bytes]) -> AsyncIterator["_Head | bytes | None"]:
    """For each part its head, its bytes in pieces, and None at its end."""
    collector = _Collector()
    parser = python_multipart.MultipartParser(boundary, collector.callbacks())
    async for chunk in body:
        parser.write(chunk)
        while collector.ready:
            yield collector.ready.popleft()
    parser.finalize()
    if not collector.complete:
        raise InvalidRequestError("The body ends before the form does.")


async def _rest(events: AsyncIterator["_Head | bytes | None"]) -> AsyncIterator[bytes]:
    async for event in events:
        if not isinstance(event, bytes):
            return
        yield event


async def _text(name: str, chunks: AsyncIterator[bytes]) -> str:
    value = b""
    async for chunk in chunks:
        value += chunk
        if len(value) > _LONGEST_FIELD:
            raise InvalidRequestError(f"{name[:80]}: is too long.", param=name[:80])
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidRequestError(f"{name[:80]}: is not UTF-8.", param=name[:80]) from None


_Head = dict[bytes, bytes]


def _names(head: "_Head | bytes | None") -> tuple[str, str | None]:
    """A part's name, and its file's when it is one."""
    disposition = head.get(b"content-disposition", b"") if isinstance(head, dict) else b""
    _, options = python_multipart.multipart.parse_options_header(disposition)
    name, filename = options.get(b"name"), options.get(b"filename")
    if name is None:
        raise InvalidRequestError("The body is not a valid form: a part has no name.")
    return name.decode(errors="replace"), None if filename is None else filename.decode(errors="replace")


class _Collector:
    """Turns the parser's calls into a queue."""

    def __init__(self) -> None:
        self.ready: deque[_Head | bytes | None] = deque()
        self.complete = False
        self._head: _Head = {}
        self._name = self._value = b""

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": lambda: self.ready.append(self._head),
            "on_part_data": lambda data, start, end: self.ready.append(bytes(data[start:end])),
            "on_part_end": lambda: self.ready.append(None),
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._head = {}

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._head[self._name.lower()] = self._value
        self._name = self._value = b""

    def _end(self) -> None:
        self.complete = True
