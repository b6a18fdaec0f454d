"""The private server: starts, keeps what it was given, and leaves nothing behind."""

import importlib.util
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
import redis

from headrace_cli import embedded_redis
from headrace_cli.embedded_redis import EmbeddedRedis, EmbeddedRedisError


def client(server: EmbeddedRedis) -> redis.Redis:
    return redis.Redis.from_url(server.url)


@pytest.mark.parametrize("listen", ["unix", "tcp"])
def test_what_was_written_is_there_after_a_stop(tmp_path: Path, listen: str) -> None:
    for expected in (None, b"kept"):
        with EmbeddedRedis(tmp_path, listen=listen) as server, client(server) as connection:  # type: ignore[arg-type]
            assert connection.get("key") == expected
            connection.set("key", "kept")
            pid = server.pid
            assert pid is not None
        assert not psutil.pid_exists(pid)
        assert not server.running


def test_it_is_safe_by_default(own_valkey: EmbeddedRedis, tmp_path: Path) -> None:
    with client(own_valkey) as connection:
        assert connection.config_get("appendonly") == {"appendonly": "yes"}
        assert connection.config_get("appendfsync") == {"appendfsync": "everysec"}
        assert connection.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    folder = tmp_path / "valkey"
    for name in ("redis.sock", "redis.conf", "address"):
        assert stat.S_IMODE((folder / name).stat().st_mode) & 0o077 == 0
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(unix_socket_path=str(folder / "redis.sock")).ping()


def test_a_crashed_server_starts_again_at_the_same_address(own_valkey: EmbeddedRedis) -> None:
    url = own_valkey.url
    own_valkey.kill()
    assert not own_valkey.running
    own_valkey.start()
    assert own_valkey.url == url
    with client(own_valkey) as connection:
        assert connection.ping()


def test_starting_a_running_server_changes_nothing(own_valkey: EmbeddedRedis) -> None:
    pid = own_valkey.pid
    own_valkey.start()
    assert own_valkey.pid == pid


def test_a_folder_serves_one_server_at_a_time(own_valkey: EmbeddedRedis, tmp_path: Path) -> None:
    with pytest.raises(EmbeddedRedisError, match="in use by another"):
        EmbeddedRedis(tmp_path / "valkey").start()
    with client(own_valkey) as connection:
        assert connection.ping()


@pytest.mark.parametrize("listen", ["unix", "tcp"])
def test_a_server_whose_parent_was_killed_is_replaced(tmp_path: Path, listen: str) -> None:
    code = (
        "import sys, time; from pathlib import Path; from headrace_cli.embedded_redis import EmbeddedRedis;"
        f"s = EmbeddedRedis(Path(sys.argv[1]), listen={listen!r}); s.start(); print(s.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    orphan = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert psutil.pid_exists(orphan)
    with EmbeddedRedis(tmp_path, listen=listen) as server, client(server) as connection:  # type: ignore[arg-type]
        assert connection.ping()
        deadline = time.monotonic() + 2
        while _alive(orphan) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not _alive(orphan)


def _alive(pid: int) -> bool:
    """An orphan may stay a zombie where nobody collects it."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_folder_too_deep_for_a_socket_is_no_problem(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / ("deep" * 30)) as server, client(server) as connection:
        assert connection.ping()
        socket = Path(server.url.partition("@")[2].partition("?")[0])
        assert socket.exists()
    assert not socket.parent.exists()


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedRedisError, match=r"cannot use .*file/below: Not a directory"):
        EmbeddedRedis(tmp_path / "file" / "below").start()


def test_broken_data_is_one_clear_line(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server, client(server) as connection:
        connection.set("key", "value")
    for part in (tmp_path / "appendonlydir").glob("*.incr.aof"):
        part.write_bytes(b"*nonsense\r\n" + part.read_bytes())
    with pytest.raises(EmbeddedRedisError) as caught:
        EmbeddedRedis(tmp_path).start()
    assert "did not start" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_server_anywhere_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedRedisError, match="install headrace"):
        EmbeddedRedis(tmp_path / "x").start()


def test_a_server_on_the_path_is_good_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = embedded_redis.find_server()
    (tmp_path / "redis-server").symlink_to(bundled)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/nowhere")
    with EmbeddedRedis(tmp_path / "x") as server, client(server) as connection:
        assert connection.ping()
