"""Event ids: how far a client has read a stream, in a form from which any API node can go on.

An id is ``<request id>:<n>``, where n counts the stream's events from 1. With several prompts their events may come in
another order when the stream is told again; then there is one counter per prompt: ``<request id>:<n0>.<n1>``. What
closes the stream counts for the first prompt.
"""

import re
from collections.abc import Sequence

import msgspec

from headrace_api.errors import ErrorBody
from headrace_shared.errors import InvalidRequestError

_COUNTERS = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})*")
_encode = msgspec.json.Encoder().encode


class EventIds:
    """Writes the events of one stream, each with its id, and leaves out those that the client has."""

    def __init__(self, request_id: str, prompts: int = 1, after: Sequence[int] | None = None) -> None:
        """``after``: a position from ``parse_position``; None: from the beginning."""
        self._prefix = b"id: " + request_id.encode() + b":"
        self._position = list(after or [0] * prompts)
        self._known = list(self._position)
        self._sent = list(self._position)
        self._single = prompts == 1

    def frame(self, prompt: int, event: msgspec.Struct, name: str = "") -> bytes:
        """The next event of that prompt; b"" when the client has it. ``name``: its type, where events have one."""
        return b"" if self._is_known(prompt) else self._event(event, name)

    def done(self) -> bytes:
        """The usual last event; b"" when the client has it."""
        return b"" if self._is_known(0) else self._head() + b"data: [DONE]\n\n"

    def sent(self) -> None:
        """To be called when all that was written so far is on its way to the client."""
        self._sent = self._position.copy()

    def error(self, body: ErrorBody) -> bytes:
        """How a stream ends that cannot go on: the error as an event, so that clients raise it, then the usual end."""
        return self.broken_off(body) + self._head() + b"data: [DONE]\n\n"

    def broken_off(self, event: msgspec.Struct, name: str = "") -> bytes:
        """An event outside of the answer, the last one.

        Its id is that of the last event that was sent: whoever comes back is told how it really went on.
        """
        self._position = self._sent
        return self._event(event, name)

    @property
    def last_sent(self) -> int:
        """Number of the last event of the first prompt that the client has, or is about to get."""
        return self._sent[0]

    def _is_known(self, prompt: int) -> bool:
        if self._known[prompt]:
            self._known[prompt] -= 1
            return True
        self._position[prompt] += 1
        return False

    def _event(self, event: msgspec.Struct, name: str) -> bytes:
        named = b"event: %b\n" % name.encode() if name else b""
        return self._head() + named + b"data: " + _encode(event) + b"\n\n"

    def _head(self) -> bytes:
        if self._single:
            return b"%b%d\n" % (self._prefix, self._position[0])
        return self._prefix + ".".join(map(str, self._position)).encode() + b"\n"


def parse_position(value: str, request_id: str, prompts: int, param: str) -> list[int]:
    """The counters of an event id, which may come without its request id.

    Raises InvalidRequestError that names ``param`` when it is none, or that of another request.
    """
    owner, _, counters = value.rpartition(":")
    if owner not in ("", request_id):
        raise InvalidRequestError(f"{param}: {value[:80]!r} is an event of another request.", param=param)
    if not _COUNTERS.fullmatch(counters):
        raise InvalidRequestError(f"{param}: should be an event's id or its number, got {value[:80]!r}.", param=param)
    position = [int(counter) for counter in counters.split(".")]
    if len(position) != prompts:
        raise InvalidRequestError(
            f"{param}: an event of this request has {prompts} counters, one per prompt, got {len(position)}.",
            param=param,
        )
    return position
