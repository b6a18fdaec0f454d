"""The one place that reads the time."""

import time


def wall_ms() -> int:
    """Milliseconds since the Unix epoch, for stamps that other machines read."""
    return time.time_ns() // 1_000_000


def wall_s() -> int:
    """Seconds since the Unix epoch, as the ``created`` fields of the API want them."""
    return wall_ms() // 1000


def mono_s() -> float:
    """Monotonic seconds, for measuring durations inside one process."""
    return time.monotonic()


def wall_ns() -> int:
    """Nanoseconds since the Unix epoch, as spans want them."""
    return time.time_ns()
