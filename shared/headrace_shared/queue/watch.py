"""Watch: what the queue's code tells of itself, to whoever counts it for this connection.

The queue does not know of metrics. A process that wants to count puts a Watch on its connection, before it is used.
"""

from typing import Protocol
from weakref import WeakKeyDictionary

from redis.asyncio import Redis


class Watch(Protocol):
    """Called on the event loop; must not raise."""

    def called(self, operation: str, seconds: float, *, failed: bool) -> None:
        """A round trip to Redis, retries included: a script's name, or ``command``."""

    def appended(self, status: str, frames: int) -> None:
        """What the log said to so many frames of a call, in small letters."""

    def claimed(self, attempts: int) -> None:
        """A request was claimed, by so many workers by now."""

    def reaped(self, requests: int) -> None:
        """So many requests of dead workers were put back."""

    def log_read(self, why: str) -> None:
        """A stream reads the log: ``behind`` the channel, ``rewound``, or ``asked`` to begin somewhere."""

    def frame_ignored(self) -> None:
        """A frame came that the stream had already."""


class _Nobody:
    """Counts nothing."""

    def called(self, operation: str, seconds: float, *, failed: bool) -> None: ...
    def appended(self, status: str, frames: int) -> None: ...
    def claimed(self, attempts: int) -> None: ...
    def reaped(self, requests: int) -> None: ...
    def log_read(self, why: str) -> None: ...
    def frame_ignored(self) -> None: ...


_NOBODY = _Nobody()
_watches: WeakKeyDictionary[Redis, Watch] = WeakKeyDictionary()


def put_watch(redis: Redis, watch: Watch) -> None:
    """Have ``watch`` told of everything that goes over this client."""
    _watches[redis] = watch


def watch_of(redis: Redis) -> Watch:
    """Its watch; one that counts nothing when it has none."""
    return _watches.get(redis, _NOBODY)
