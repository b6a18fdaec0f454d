"""usable_cores(): how many compute threads make sense here."""

import math
import os
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Physical cores that this process may use, within its container's quota; at least 1."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    # Two hardware threads of one core share its arithmetic units: a second one only gets in the way.
    cores = len({_siblings(cpu) for cpu in allowed})
    return max(1, min(cores, _quota()))


def _siblings(cpu: int) -> str:
    listed = _CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list"
    try:
        return listed.read_text().strip()
    except OSError:
        return str(cpu)


def _quota() -> int:
    """Whole cores of the container's quota; a large number when there is none."""
    try:
        limit, period = _QUOTA.read_text().split()
        return max(1, math.floor(int(limit) / int(period)))
    except (OSError, ValueError):
        return 1 << 16
