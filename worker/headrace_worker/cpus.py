"""bind_to(): which of the machine's CPUs this process computes on."""

import os
import re
from pathlib import Path

_NODES = Path("/sys/devices/system/node")
_LIST = re.compile(r"\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*")


class CpuBindingError(ValueError):
    """The process cannot be bound to these CPUs; the message is for the operator."""


def cpu_list(text: str) -> frozenset[int]:
    """``0-3,8`` -> {0, 1, 2, 3, 8}, as Linux and taskset write it. Raises ValueError."""
    if not _LIST.fullmatch(text):
        raise ValueError(f"must be auto, or CPUs like 0-3,8; got {text[:40]!r}")
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        cpus = range(int(first), int(last or first) + 1)
        if not cpus:
            raise ValueError(f"{part} has no CPU in it")
        found.update(cpus)
    return frozenset(found)


def bind_to(asked: str) -> frozenset[int]:
    """Have this thread, and all threads and processes that it starts, run on the CPUs of a list, or of one NUMA node (``auto``).

    Of the nodes the one is taken on which most CPUs may be used, of several such the first. Returns the CPUs.
    Raises CpuBindingError.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise CpuBindingError("this system binds no process to CPUs; leave it out")
    usable = frozenset(os.sched_getaffinity(0))
    wanted = _largest_node(usable) if asked == "auto" else cpu_list(asked)
    if missing := wanted - usable:
        told = ", ".join(map(str, sorted(missing)[:8]))
        raise CpuBindingError(f"CPU {told} cannot be used by this process, only {_written(usable)}")
    os.sched_setaffinity(0, wanted)
    return wanted


def _largest_node(usable: frozenset[int]) -> frozenset[int]:
    nodes = sorted(_NODES.glob("node[0-9]*"), key=lambda path: int(path.name.removeprefix("node")))
    lists = [text for path in nodes if (text := (path / "cpulist").read_text().strip())]
    return max((cpu_list(text) & usable for text in lists), key=len, default=usable)


def _written(cpus: frozenset[int]) -> str:
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and runs[-1][-1] == cpu - 1:
            runs[-1].append(cpu)
        else:
            runs.append([cpu])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
