"""Answers: the output of a batch, to which whole lines are added, and from which a run goes on after a crash."""

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import msgspec

from headrace_cli.errors import CliError
from headrace_cli.run_batch.lines import Line

_ID = re.compile(r"batch_req_([0-9a-f]{8})([0-9a-f]{24})")
_BEGINNING = b'{"id":"batch_req_'


class _Entry(msgspec.Struct):
    id: str


class Answers:
    """An open output. What ``add`` has returned from survives this process and, for a file, this machine."""

    def __init__(self, descriptor: int, run: str, done: set[str], *, name: str) -> None:
        self._descriptor = descriptor
        self.durable = bool(name)
        """Whether a run can go on from it."""
        self.name = name or "stdout"
        self.run = run
        """What all runs of one output have in common."""
        self.done = done
        """Digests of the lines that have theirs."""

    @classmethod
    @contextlib.contextmanager
    def resumed(cls, path: Path, wanted: set[str]) -> Iterator[Self]:
        """A file, made when it is not there. ``wanted``: the digests of the input.

        A last line that was cut off is dropped. Raises CliError when the file is in use, cannot be used, or holds
        anything but answers to this input.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise CliError(f"cannot write {path}: {error.strerror}") from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise CliError(f"another run writes to {path}") from None
            run, done = _read(descriptor, path, wanted)
            yield cls(descriptor, run or secrets.token_hex(4), done, name=str(path))
        finally:
            os.close(descriptor)

    @classmethod
    def to_stdout(cls, descriptor: int) -> Self:
        """A stream, from which no run can go on."""
        return cls(descriptor, secrets.token_hex(4), set(), name="")

    def entry(self, line: Line, response: dict[str, Any] | None, error: dict[str, Any] | None) -> bytes:
        """One line of output, with its line feed."""
        content = {
            "id": f"batch_req_{self.run}{line.digest}",
            "custom_id": line.custom_id,
            "response": response,
            "error": error,
        }
        return msgspec.json.encode(content) + b"\n"

    def add(self, entries: Iterable[bytes]) -> None:
        """Raises CliError, for instance for a full disk."""
        rest = memoryview(b"".join(entries))
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            if self.durable:
                os.fsync(self._descriptor)
        except OSError as error:
            raise CliError(f"cannot write {self.name}: {error.strerror}") from None


def _read(descriptor: int, path: Path, wanted: set[str]) -> tuple[str | None, set[str]]:
    """The run, unless nothing was written yet, and the digests of the lines that have answers."""
    run, done, whole_bytes = None, set(), 0
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        for number, raw in enumerate(file, 1):
            if not raw.endswith(b"\n"):
                if raw[: len(_BEGINNING)] != _BEGINNING[: len(raw)]:
                    raise _strange(path, number)
                break
            run, digest = _parse(raw, path, number)
            if digest not in wanted:
                raise CliError(
                    f"{path} holds answers to another input, in line {number}; choose another output, or remove it"
                )
            done.add(digest)
            whole_bytes += len(raw)
    if os.fstat(descriptor).st_size > whole_bytes:
        os.ftruncate(descriptor, whole_bytes)
    return run, done


def _parse(raw: bytes, path: Path, number: int) -> tuple[str, str]:
    try:
        match = _ID.fullmatch(msgspec.json.decode(raw, type=_Entry).id)
    except msgspec.DecodeError:
        match = None
    if match is None:
        raise _strange(path, number)
    return match[1], match[2]


def _strange(path: Path, number: int) -> CliError:
    return CliError(f"{path} holds something else than answers, in line {number}; choose another output, or remove it")
