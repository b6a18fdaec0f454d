"""Ranks: the processes that hold the other parts of this process's model."""

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from headrace_worker.execute.parallel.orders import Order

log = logging.getLogger(__name__)

_LAST_WORDS_S = 3.0
"""How long this process lives on without one of them: a step that fails for it hands its requests over."""
_END_S = 10.0


class Ranks:
    """Children of this process, which end with it. A model that lacks a part is none, so it also ends with them."""

    def __init__(self, module: str, greetings: list[bytes]) -> None:
        """Start ``python -m module`` for each of ``greetings``, the first thing that it reads."""
        self._ending = False
        started: SimpleQueue[subprocess.Popen[bytes] | OSError] = SimpleQueue()
        self._processes: list[subprocess.Popen[bytes]] = []
        for rank in range(1, len(greetings) + 1):
            # Linux ends a child with the thread that started it, so that one has to live as long as this process.
            thread = threading.Thread(
                target=self._keep, args=(rank, module, started.put), name=f"rank {rank}", daemon=True
            )
            thread.start()
            process = started.get()
            if isinstance(process, OSError):
                self.close()
                raise process
            self._processes.append(process)
        for process, greeting in zip(self._processes, greetings, strict=True):
            _write(process, greeting)

    def order(self, order: Order) -> None:
        """Have all of them do it, after what they were told before. Raises BrokenPipeError when one has died."""
        packed = order.pack()
        for process in self._processes:
            _write(process, packed)

    def close(self) -> None:
        """End them."""
        self._ending = True
        for process in self._processes:
            assert process.stdin is not None  # noqa: S101 it was asked for
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        for process in self._processes:
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()

    def _keep(self, rank: int, module: str, started: Callable[[subprocess.Popen[bytes] | OSError], None]) -> None:
        environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}  # noqa: TID251 it is handed on, not read
        try:
            process = subprocess.Popen(  # noqa: S603 our own module
                [sys.executable, "-P", "-m", module], stdin=subprocess.PIPE, env=environment
            )
        except OSError as error:
            started(error)
            return
        started(process)
        status = process.wait()
        if self._ending:
            return
        log.error(
            "a process that holds a part of the model has ended, and this one ends with it",
            extra={"rank": rank, "pid": process.pid, "status": status},
        )
        time.sleep(_LAST_WORDS_S)
        if not self._ending:
            # Whoever waits for that process in a collective operation may never be told.
            os._exit(max(1, status))


def _write(process: "subprocess.Popen[bytes]", data: bytes) -> None:
    assert process.stdin is not None  # noqa: S101 it was asked for
    process.stdin.write(data)
    process.stdin.flush()
