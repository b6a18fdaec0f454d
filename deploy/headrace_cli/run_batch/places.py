"""Where a batch's input comes from and its output goes: files, streams, and URLs of allowed hosts."""

import contextlib
import hashlib
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO
from urllib.parse import SplitResult, urlsplit

import httpx

from headrace_cli import folders
from headrace_cli.errors import EXIT_CONFIGURATION, CliError

STREAM = "-"
_PORTS = {"http": 80, "https": 443}
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
_UPLOAD_TRIES = 4
_PIECE_BYTES = 1024 * 1024


def is_url(place: str) -> bool:
    return "://" in place


def check_url(url: str, allowed_hosts: Sequence[str]) -> None:
    """Raises CliError for anything but http and https, and for a host that is not among ``allowed_hosts``.

    An allowed host is a name, for its scheme's own port, or ``name:port``.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
    except (KeyError, ValueError):
        raise _wrong(f"{shown(url)} is neither a file nor an http:// or https:// URL") from None
    host = (parts.hostname or "").lower()
    named = host if port == _PORTS[parts.scheme] else f"{host}:{port}"
    if named not in (each.lower() for each in allowed_hosts):
        raise _wrong(f"{named} is not an allowed host; allow it with --allowed-hosts {named}")


def shown(url: str) -> str:
    """``url`` without what may be secret: user, password and the signature of a presigned one."""
    parts = urlsplit(url)
    return SplitResult(parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "").geturl()


def result_file(url: str, folder: Path | None) -> Path:
    """Where the answers are kept until they are sent to ``url``: the same for every run."""
    name = hashlib.sha256(shown(url).encode()).hexdigest()[:16]
    return (folder or folders.state_dir() / "run-batch") / f"{name}.jsonl"


@contextlib.contextmanager
def input_file(place: str, max_bytes: int) -> Iterator[Path]:
    """A file that can be read again: ``place`` itself, or a copy of a URL or stream, of at most ``max_bytes``.

    Raises CliError when it cannot be had.
    """
    path = Path(place)
    if not is_url(place) and place != STREAM and (path.is_file() or not path.exists()):
        if not path.exists():
            raise _wrong(f"there is no file {place}")
        yield path
        return
    with tempfile.NamedTemporaryFile(prefix="headrace-", suffix=".jsonl") as copy:
        if is_url(place):
            _fetch(place, copy.file, max_bytes)
        elif place == STREAM:
            _copy(iter(lambda: sys.stdin.buffer.read(_PIECE_BYTES), b""), copy.file, max_bytes, "stdin")
        else:
            with _opened(path) as stream:
                _copy(iter(lambda: stream.read(_PIECE_BYTES), b""), copy.file, max_bytes, place)
        copy.flush()
        yield Path(copy.name)


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise _wrong(f"cannot read {path}: {error.strerror}") from None


def _fetch(url: str, file: IO[bytes], max_bytes: int) -> None:
    try:
        # A redirect could lead to a host that is not allowed.
        with httpx.stream("GET", url, timeout=_TIMEOUT, follow_redirects=False) as response:
            if response.is_redirect:
                target = shown(response.headers.get("location", ""))
                raise CliError(f"{shown(url)} leads elsewhere; give the last address itself: {target}")
            if not response.is_success:
                raise CliError(f"{shown(url)} answers HTTP {response.status_code}")
            _copy(response.iter_bytes(_PIECE_BYTES), file, max_bytes, shown(url))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CliError(f"cannot fetch {shown(url)}: {error or type(error).__name__}") from None


def _copy(pieces: Iterable[bytes], file: IO[bytes], max_bytes: int, name: str) -> None:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > max_bytes:
            raise CliError(f"{name} is larger than {max_bytes} bytes; see --max-input-bytes")
        file.write(piece)


def upload(path: Path, url: str) -> None:
    """PUT a file, a few times if need be. Raises CliError; the file stays."""
    why = ""
    for tries in range(1, _UPLOAD_TRIES + 1):
        try:
            with path.open("rb") as file:
                response = httpx.put(url, content=file, timeout=_TIMEOUT, follow_redirects=False)
            if response.is_success:
                return
            why = f"HTTP {response.status_code}"
            if not response.is_server_error:
                break
        except httpx.InvalidURL as error:
            why = str(error)
            break
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
        if tries < _UPLOAD_TRIES:
            time.sleep(0.5 * 2**tries)
    raise CliError(f"cannot send the answers to {shown(url)}: {why}; they are in {path}, the same command tries again")


def same_file(one: str, other: str) -> bool:
    """Whether two places are one file."""
    try:
        return Path(one).samefile(other)
    except OSError:
        return False


def _wrong(message: str) -> CliError:
    return CliError(message, exit_code=EXIT_CONFIGURATION)
