"""Lines of a batch's input: what each asks for, or what is wrong with it."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

URLS = (
    "/v1/chat/completions",
    "/v1/chat/completions/batch",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
)
"""The same as those of a server's batches."""
MAX_LINE_BYTES = 64 * 1024 * 1024
_FIELDS = ("custom_id", "method", "url", "body")
_NOT_WHOLE = ("stream", "background")
"""Fields of a body whose answers do not come in one piece."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line. Without ``problem`` it can be sent; ``custom_id`` is None where it cannot be read or is not its own."""

    number: int
    """Of the input file, from 1."""
    digest: str
    """Of its number and its bytes: 24 hexadecimal digits."""
    custom_id: str | None
    url: str = ""
    body: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


class Lines:
    """The lines of a file, each the same every time it is read. Blank ones are passed over."""

    def __init__(self, path: Path) -> None:
        """Reads the file once, for what is used twice. Raises OSError."""
        self._path = path
        self._first: dict[str, int] = {}
        self.digests: set[str] = set()
        for line in self._read():
            self.digests.add(line.digest)
            if line.custom_id is not None:
                self._first.setdefault(line.custom_id, line.number)

    def __len__(self) -> int:
        return len(self.digests)

    def __iter__(self) -> Iterator[Line]:
        for line in self._read():
            first = line.number if line.custom_id is None else self._first[line.custom_id]
            if first == line.number:
                yield line
            else:
                problem = f"line {line.number}: custom_id {line.custom_id!r} is that of line {first}"
                yield Line(line.number, line.digest, None, problem=problem)

    def _read(self) -> Iterator[Line]:
        with self._path.open("rb") as file:
            number = 0
            while raw := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                digest = hashlib.sha256(b"%d\n" % number + raw.rstrip(b"\r\n"))
                too_long = len(raw) > MAX_LINE_BYTES
                while too_long and not raw.endswith(b"\n") and (rest := file.readline(MAX_LINE_BYTES)):
                    digest.update(rest)
                    raw = rest
                if too_long:
                    problem = f"line {number}: is longer than {MAX_LINE_BYTES} bytes"
                    yield Line(number, digest.hexdigest()[:24], None, problem=problem)
                elif raw.strip():
                    yield _parsed(number, digest.hexdigest()[:24], raw)


def _parsed(number: int, digest: str, raw: bytes) -> Line:
    try:
        entry = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Line(number, digest, None, problem=f"line {number}: is not JSON: {error}")
    if not isinstance(entry, dict):
        return Line(number, digest, None, problem=f"line {number}: should be an object with {', '.join(_FIELDS)}")
    custom_id = entry.get("custom_id")
    known_id = custom_id if isinstance(custom_id, str) and custom_id else None
    if problems := list(_problems(entry)):
        return Line(number, digest, known_id, problem=f"line {number}: {'; '.join(problems)}")
    return Line(number, digest, known_id, entry["url"], entry["body"])


def _problems(entry: dict[str, Any]) -> Iterator[str]:
    if not isinstance(entry.get("custom_id"), str) or not entry["custom_id"]:
        yield "custom_id: should be a text that is not empty"
    if entry.get("method") != "POST":
        yield "method: should be POST"
    if entry.get("url") not in URLS:
        yield f"url: should be one of {', '.join(URLS)}"
    body = entry.get("body")
    if not isinstance(body, dict):
        yield "body: should be an object"
    else:
        yield from (f"body.{name}: has to be left out in a batch" for name in _NOT_WHOLE if body.get(name))
    yield from (f"{name}: is not a field of a batch's line" for name in entry if name not in _FIELDS)
