"""Ties this process's life to its parent's, so that even a kill -9 of that leaves nothing running. Linux only."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with(parent_pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """This process gets ``number`` when the thread that started it ends, for whatever reason; it ends at once when its
    parent, ``parent_pid``, has ended already."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent_pid:  # it died before the kernel was asked
            os._exit(1)
