"""Ties a child process's life to this one's, so that even a kill -9 of a supervisor leaves nothing running."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(number: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    """A ``preexec_fn``: the child gets ``number`` when the thread that started it ends, for whatever reason.

    So start children from a thread that lives as long as they may: the main one. Linux only; elsewhere children
    outlive a parent that was killed.
    """
    parent_pid = os.getpid()

    def ask_kernel() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, number)
            if os.getppid() != parent_pid:  # it died before the kernel was asked
                os._exit(1)

    return ask_kernel
