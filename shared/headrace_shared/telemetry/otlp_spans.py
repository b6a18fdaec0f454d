"""Spans as the message that a collector wants, at a quarter of what the SDK's own way to it costs.

The SDK makes a Python object of every attribute: 60 microseconds for a span of eighteen, most of what a traced request
costs, under the lock that the event loop needs as well. Here the bytes are written at once, and read back in C. What is
said is the same to the last field (https://github.com/open-telemetry/opentelemetry-proto, trace.proto).
"""

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as encode_spans_by_sdk
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, SpanContext

_REMOTE_KNOWN, _REMOTE = 0x100, 0x200
_VARINTS = [bytes([number]) for number in range(128)]
_double = struct.Struct("<d").pack
_fixed64 = struct.Struct("<Q").pack
_fixed32 = struct.Struct("<I").pack


class _UnusualError(Exception):
    """A value that the SDK has to encode."""


def encode_spans(spans: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
    """What the SDK's function of this name returns."""
    first = spans[0]
    source = first.resource, first.instrumentation_scope
    try:
        rest = b"".join(
            [
                _field(b"\x12", _span(span))
                for span in spans[1:]
                if (span.resource, span.instrumentation_scope) == source or _unusual()
            ]
        )
    except (_UnusualError, UnicodeEncodeError):
        return encode_spans_by_sdk(spans)
    # The first one brings the process' own attributes along.
    request = encode_spans_by_sdk(spans[:1])
    request.resource_spans[0].scope_spans[0].MergeFromString(rest)
    return request


def _span(span: ReadableSpan) -> bytes:
    context, parent = span.get_span_context(), span.parent
    if context is None or span.start_time is None or span.end_time is None:
        raise _UnusualError
    parts = [_ids(context)]
    if context.trace_state:
        parts.append(_field(b"\x1a", context.trace_state.to_header().encode()))
    if parent is not None:
        parts += (b"\x22\x08", parent.span_id.to_bytes(8))
    parts += (
        _name(b"\x2a", span.name),
        b"\x30",
        _VARINTS[span.kind.value + 1],
        b"\x39",
        _fixed64(span.start_time),
        b"\x41",
        _fixed64(span.end_time),
        _attributes(b"\x4a", span.attributes),
        _number(b"\x50", span.dropped_attributes),
        *[_field(b"\x5a", _event(event)) for event in span.events],
        _number(b"\x60", span.dropped_events),
        *[_field(b"\x6a", _link(link)) for link in span.links],
        _number(b"\x70", span.dropped_links),
        _status(span),
        _flags(b"\x85\x01", parent),
    )
    return b"".join(parts)


def _event(event: Event) -> bytes:
    attributes = _attributes(b"\x1a", event.attributes)
    dropped = _number(b"\x20", event.dropped_attributes)
    return b"".join((b"\x09", _fixed64(event.timestamp), _name(b"\x12", event.name), attributes, dropped))


def _link(link: Link) -> bytes:
    attributes = _attributes(b"\x22", link.attributes)
    return b"".join(
        (_ids(link.context), attributes, _number(b"\x28", link.dropped_attributes), _flags(b"\x35", link.context))
    )


def _ids(context: SpanContext) -> bytes:
    return b"".join((b"\x0a\x10", context.trace_id.to_bytes(16), b"\x12\x08", context.span_id.to_bytes(8)))


def _status(span: ReadableSpan) -> bytes:
    message = _field(b"\x12", span.status.description.encode()) if span.status.description else b""
    return _field(b"\x7a", message + _number(b"\x18", span.status.status_code.value))


def _flags(tag: bytes, context: SpanContext | None) -> bytes:
    remote = context is not None and context.is_remote
    return tag + _fixed32(_REMOTE_KNOWN | _REMOTE if remote else _REMOTE_KNOWN)


def _attributes(tag: bytes, attributes: Mapping[str, Any] | None) -> bytes:
    if not attributes:
        return b""
    parts = []
    for key, value in attributes.items():
        kind = type(value)
        if kind is float:
            parts.append(_field(tag, _key(key) + b"\x12\x09\x21" + _double(value)))
        elif kind is str or kind is int or kind is bool:
            parts.append(_repeated(tag, key, value) if kind is not str or len(value) < 64 else _pair(tag, key, value))
        else:
            parts.append(_pair(tag, key, value))
    return b"".join(parts)


@lru_cache(maxsize=2048, typed=True)
def _repeated(tag: bytes, key: str, value: str | int | bool) -> bytes:
    return _pair(tag, key, value)


def _pair(tag: bytes, key: str, value: Any) -> bytes:
    return _field(tag, _key(key) + _field(b"\x12", _value(value)))


@lru_cache(maxsize=256)
def _key(key: str) -> bytes:
    return _field(b"\x0a", key.encode())


@lru_cache(maxsize=256)
def _name(tag: bytes, name: str) -> bytes:
    return _field(tag, name.encode()) if name else b""


def _value(value: Any) -> bytes:
    kind = type(value)
    if kind is str:
        return _field(b"\x0a", value.encode())
    if kind is bool:
        return b"\x10\x01" if value else b"\x10\x00"
    if kind is int and -(2**63) <= value < 2**63:
        return b"\x18" + _varint(value % 2**64)
    if kind is float:
        return b"\x21" + _double(value)
    if kind is tuple or kind is list:
        return _field(b"\x2a", b"".join([_field(b"\x0a", _value(item)) for item in value]))
    raise _UnusualError


def _number(tag: bytes, number: int) -> bytes:
    return tag + _varint(number) if number else b""


def _field(tag: bytes, content: bytes) -> bytes:
    return tag + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    if number < 128:
        return _VARINTS[number]
    digits = bytearray()
    while number >= 128:
        digits.append(number & 127 | 128)
        number >>= 7
    digits.append(number)
    return bytes(digits)


def _unusual() -> bool:
    raise _UnusualError
