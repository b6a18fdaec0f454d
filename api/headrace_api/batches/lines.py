"""The lines of a batch's input, one item each, and what can be wrong with them."""

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from hashlib import blake2b

import msgspec
from msgspec import UNSET, Raw, UnsetType

from headrace_shared.queue.batch_book import BatchProblem

_MOST_PROBLEMS = 100
_LONGEST_ID = 512
_SHOWN = 80


class _ItemLine(msgspec.Struct, frozen=True):
    custom_id: Raw | UnsetType = UNSET
    method: Raw | UnsetType = UNSET
    url: Raw | UnsetType = UNSET
    body: Raw | UnsetType = UNSET


class _Model(msgspec.Struct, frozen=True):
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """An item as it is in the input. ``number`` counts from 0, blank lines included."""

    number: int
    custom_id: str
    body: bytes


_decode = msgspec.json.Decoder(_ItemLine).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_model = msgspec.json.Decoder(_Model).decode


async def raw_lines(chunks: AsyncIterable[bytes], longest: int) -> AsyncIterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers from 0. One that is longer than ``longest`` is cut there."""
    number, rest = 0, bytearray()
    async for chunk in chunks:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            rest += chunk[start : min(end, start + longest + 1)]
            if line := bytes(rest[: longest + 1]).strip():
                yield number, line
            rest.clear()
            number, start = number + 1, end + 1
        if len(rest) <= longest:
            rest += chunk[start : start + longest + 1]
    if line := bytes(rest[: longest + 1]).strip():
        yield number, line


def read_line(number: int, raw: bytes) -> Line:
    """One that was checked before."""
    item = _decode(raw)
    assert isinstance(item.custom_id, Raw)  # noqa: S101 - as the check has found
    assert isinstance(item.body, Raw)  # noqa: S101 - the same
    return Line(number, _decode_text(item.custom_id), bytes(item.body))


class InputCheck:
    """Goes through all lines once, before any is worked on."""

    def __init__(self, endpoint: str, longest: int, most_items: int) -> None:
        self._endpoint = endpoint
        self._longest = longest
        self._most_items = most_items
        self._seen: set[bytes] = set()
        self._problems: list[BatchProblem] = []
        self._models: list[str | None] = []
        self.items = 0

    def feed(self, number: int, raw: bytes) -> None:
        self.items += 1
        if self.items <= self._most_items and len(self._problems) < _MOST_PROBLEMS:
            self._problems += [
                BatchProblem(code, message, param, number + 1) for code, message, param in self._wrong(raw)
            ]

    def finish(self) -> list[BatchProblem]:
        """What is wrong, at most a hundred things; [] when it can be worked on."""
        if self.items == 0:
            return [BatchProblem("empty_file", "The input file has no lines.")]
        if self.items > self._most_items:
            message = f"The input file has {self.items} items, more than the {self._most_items} of a batch; split it."
            return [BatchProblem("too_many_tasks", message)]
        return self._problems[:_MOST_PROBLEMS]

    @property
    def model(self) -> str | None:
        """The one of all items."""
        return self._models[0] if self._models else None

    def _wrong(self, raw: bytes) -> list[tuple[str, str, str | None]]:
        if len(raw) > self._longest:
            return [("line_too_long", f"This line is longer than {self._longest} bytes.", None)]
        try:
            item = _decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return [("invalid_json_line", "This line is not parseable as a JSON object.", None)]
        found: list[tuple[str, str, str | None]] = []
        for name in ("custom_id", "method", "url", "body"):
            if getattr(item, name) is UNSET:
                found.append(("missing_required_parameter", f"Missing required parameter: '{name}'.", name))
        return found or [*self._wrong_envelope(item), *self._wrong_body(item)]

    def _wrong_envelope(self, item: _ItemLine) -> list[tuple[str, str, str | None]]:
        found: list[tuple[str, str, str | None]] = []
        custom_id, method, url = _text(item.custom_id), _text(item.method), _text(item.url)
        if custom_id is None or not 1 <= len(custom_id) <= _LONGEST_ID:
            message = f"'custom_id' should be a text of 1 to {_LONGEST_ID} characters."
            found.append(("invalid_custom_id", message, "custom_id"))
        else:
            digest = blake2b(custom_id.encode(errors="surrogatepass"), digest_size=16).digest()
            if digest in self._seen:
                message = f"The custom_id {custom_id[:_SHOWN]!r} is that of an earlier line; it must be unique."
                found.append(("duplicate_custom_id", message, "custom_id"))
            self._seen.add(digest)
        if method != "POST":
            found.append(("invalid_method", "'method' should be 'POST'.", "method"))
        if url != self._endpoint:
            message = f"'url' should be {self._endpoint!r}, the endpoint of this batch."
            found.append(("mismatched_endpoint", message, "url"))
        return found

    def _wrong_body(self, item: _ItemLine) -> list[tuple[str, str, str | None]]:
        try:
            model = _decode_model(item.body) if isinstance(item.body, Raw) else _Model()
        except msgspec.DecodeError as error:
            where = "body.model" if str(error).endswith("`$.model`") else "body"
            kind = "a text" if where == "body.model" else "an object"
            return [("invalid_body", f"{where!r} should be {kind}.", where)]
        self._models.append(model.model)
        if model.model != self._models[0]:
            message = (
                f"The model {(model.model or '')[:_SHOWN]!r} is not that of the first line, "
                f"{(self._models[0] or '')[:_SHOWN]!r}; a batch has one."
            )
            del self._models[1:]
            return [("mismatched_model", message, "body.model")]
        del self._models[1:]
        return []


def _text(raw: Raw | UnsetType) -> str | None:
    if isinstance(raw, UnsetType):
        return None
    try:
        return _decode_text(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
