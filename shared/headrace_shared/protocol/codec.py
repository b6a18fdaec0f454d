"""Jobs and frames to bytes and back: msgpack behind one version byte.

Unknown fields are skipped, so that a newer neighbour may add some; a change that an older
neighbour would misread raises ``PROTOCOL_VERSION``.
"""

import sys
from array import array
from collections.abc import Sequence

import msgspec

from headrace_shared.protocol.ask import Ask
from headrace_shared.protocol.event import Event
from headrace_shared.protocol.job import Job

PROTOCOL_VERSION = 1
_VERSION_BYTE = bytes([PROTOCOL_VERSION])

_encoder = msgspec.msgpack.Encoder()
_job_decoder = msgspec.msgpack.Decoder(Job)
_ask_decoder = msgspec.msgpack.Decoder(Ask)
_frame_decoder = msgspec.msgpack.Decoder(list[Event])


class ProtocolVersionError(ValueError):
    """The bytes were written by a version that this process cannot read."""


def encode_job(job: Job) -> bytes:
    """The bytes stored under the request's body key."""
    return _VERSION_BYTE + _encoder.encode(job)


def decode_job(data: bytes) -> Job:
    """Inverse of ``encode_job``. Raises ProtocolVersionError or msgspec.DecodeError."""
    return _job_decoder.decode(_checked(data))


def encode_ask(ask: Ask) -> bytes:
    """The bytes stored beside the request's jobs."""
    return _VERSION_BYTE + _encoder.encode(ask)


def decode_ask(data: bytes) -> Ask:
    """Inverse of ``encode_ask``. Raises ProtocolVersionError or msgspec.DecodeError."""
    return _ask_decoder.decode(_checked(data))


def encode_frame(events: Sequence[Event]) -> bytes:
    """The bytes of one frame, the same in the token log and on the channel."""
    return _VERSION_BYTE + _encoder.encode(events)


def decode_frame(data: bytes) -> list[Event]:
    """Inverse of ``encode_frame``. Raises ProtocolVersionError or msgspec.DecodeError."""
    return _frame_decoder.decode(_checked(data))


def pack_ids(ids: Sequence[int]) -> bytes:
    """Token ids as unsigned 32 bit little endian."""
    packed = array("I", ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack_ids(data: bytes) -> list[int]:
    """Inverse of ``pack_ids``."""
    packed = array("I")
    packed.frombytes(data)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tolist()


def _checked(data: bytes) -> memoryview:
    if data[:1] != _VERSION_BYTE:
        raise ProtocolVersionError(
            f"protocol version {data[:1].hex() or 'missing'}, this process reads {PROTOCOL_VERSION}"
        )
    return memoryview(data)[1:]
