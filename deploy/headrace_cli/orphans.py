"""Ties a child process's life to this one's, so that even a kill -9 of a supervisor leaves nothing running."""

import os
import signal
from collections.abc import Callable

from headrace_shared.orphans import die_with


def die_with_parent(number: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    """A ``preexec_fn``: the child gets ``number`` when the thread that started it ends, for whatever reason.

    So start children from a thread that lives as long as they may: the main one. Linux only; elsewhere children
    outlive a parent that was killed.
    """
    parent_pid = os.getpid()
    return lambda: die_with(parent_pid, number)
