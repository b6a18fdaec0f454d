"""Ties a child process's life to this one's, so that even a kill -9 of a supervisor leaves nothing running."""

import errno
import os
import signal
import sys
from collections.abc import Sequence

_TIED = """
import ctypes, os, sys
parent, number, *command = sys.argv[1:]
ctypes.CDLL(None).prctl(1, int(number))  # PR_SET_PDEATHSIG, which outlives exec
if os.getppid() != int(parent):  # it died before the kernel was asked
    os._exit(1)
os.execv(command[0], command)
"""


def tied(command: Sequence[str], number: signal.Signals = signal.SIGKILL) -> list[str]:
    """``command``, an absolute path first, as one that gets ``number`` when the thread that starts it ends.

    So start it from a thread that lives as long as it may: the main one. Linux only; elsewhere children outlive a
    parent that was killed. It asks the kernel itself: a ``preexec_fn`` runs in a copy of a process with threads, where
    what libraries do after a fork may go wrong. Raises FileNotFoundError when there is no such program.
    """
    if not os.access(command[0], os.X_OK):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), command[0])
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), str(int(number)), *command]
