"""``headrace serve`` as its user starts it: queue, API node and a worker with a model, for benchmarks."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

HEADRACE = Path(sys.executable).parent / "headrace"
FLAGS = {
    "float32": (),
    "float16": ("--dtype", "float16"),
    "bfloat16": ("--dtype", "bfloat16"),
    "int8": ("--quantization", "int8"),
    "int4": ("--quantization", "int4"),
}
"""By precision of the weights."""


@dataclass(frozen=True)
class LocalServe:
    """One that is ready."""

    url: str
    process: subprocess.Popen[bytes]

    def child(self, package: str) -> psutil.Process:
        """The process that runs it, like ``headrace_worker``."""
        children = psutil.Process(self.process.pid).children()
        [found] = [child for child in children if any(word.endswith(package) for word in child.cmdline())]
        return found


@contextmanager
def serving(folder: Path, *arguments: str, timeout_s: float = 180.0) -> Iterator[LocalServe]:
    """``arguments``: of headrace serve. Everything of it is in ``folder``; it is stopped at the end."""
    folder.mkdir(parents=True)
    said = folder / "said.txt"
    command = [HEADRACE, "serve", *arguments, "--port", "0", "--state-dir", folder / "state"]
    with said.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        yield LocalServe(_url(said, process, time.monotonic() + timeout_s), process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _url(said: Path, process: subprocess.Popen[bytes], until_s: float) -> str:
    """Once the banner is there."""
    while (found := re.search(r"URL +(https?://\S+)/v1", said.read_text("utf-8"))) is None:
        if process.poll() is not None or time.monotonic() > until_s:
            raise RuntimeError(f"headrace serve is not ready: {said.read_text('utf-8')[-2000:]}")
        time.sleep(0.05)
    return found[1]
