"""``headrace api --api-server-count``: several processes on one port, which count as one."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from ports import free_port
from worker_process import workers

HEADRACE = Path(sys.executable).parent / "headrace"
PROCESSES = 2
BODY = {"model": "simulated", "prompt": "hi", "max_tokens": 4, "ignore_eos": True}


class Node:
    """A running ``headrace api`` of several processes."""

    def __init__(self, redis_url: str, folder: Path, *arguments: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.said = folder / "said.txt"
        options = ["--redis", redis_url, "--port", str(self.port), "--api-server-count", str(PROCESSES), *arguments]
        with self.said.open("wb") as out:
            self.process = subprocess.Popen(
                [HEADRACE, "api", *options], env={**os.environ, "TMPDIR": str(folder)}, stdout=out, stderr=out
            )

    def children(self) -> list[psutil.Process]:
        """Those that listen by now."""
        return [child for child in psutil.Process(self.process.pid).children() if self._listens(child)]

    def _listens(self, child: psutil.Process) -> bool:
        return any(c.status == psutil.CONN_LISTEN and c.laddr.port == self.port for c in child.net_connections("tcp"))

    def open_to(self, child: psutil.Process) -> int:
        """Connections that it has accepted."""
        connections = child.net_connections("tcp")
        return sum(c.status == psutil.CONN_ESTABLISHED and c.laddr.port == self.port for c in connections)

    def until(self, condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
        end_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end_s, self.said.read_text()
            time.sleep(0.05)

    def serves(self) -> bool:
        return len(self.children()) == PROCESSES and all(
            httpx.get(f"{self.url}/ready").status_code == 200 for _ in range(16)
        )

    def ask(self, times: int) -> None:
        """Each on a connection of its own."""
        for _ in range(times):
            assert httpx.post(f"{self.url}/v1/completions", json=BODY, timeout=20).is_success

    def scrape(self, series: str) -> list[float]:
        """Its samples as the process that happens to answer shows them."""
        text = httpx.get(f"{self.url}/metrics").text
        return [float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(series)]

    def shows(self, series: str, *values: float) -> bool:
        """Whichever process is asked."""
        return all(self.scrape(series) == list(values) for _ in range(8))


@contextmanager
def node(redis_url: str, folder: Path, *arguments: str) -> Iterator[Node]:
    running = Node(redis_url, folder, *arguments)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


ANSWERED = 'http_requests_total{handler="/v1/completions"'
TOKENS = 'vllm:time_to_first_token_seconds_count{engine="0",model_name="simulated"}'


def test_connections_are_spread_and_any_process_tells_the_sum_of_all(valkey_url: str, tmp_path: Path) -> None:
    with workers(valkey_url, 1), node(valkey_url, tmp_path) as api:
        api.until(api.serves)
        clients = [httpx.Client(base_url=api.url, timeout=20) for _ in range(32)]
        for client in clients:
            assert client.post("/v1/completions", json=BODY).is_success
        held = [api.open_to(child) for child in api.children()]
        for client in clients:
            client.close()
        assert sum(held) == 32
        assert min(held) > 4, "the kernel spreads them"
        api.until(lambda: api.shows(ANSWERED, 32) and api.shows(TOKENS, 32))
        # What all of them see alike is told once.
        assert api.shows('headrace:workers{model_name="simulated",state="ready"}', 1)
        assert api.shows("headrace:redis_up", 1)


def test_a_killed_process_comes_back_and_nothing_that_was_counted_is_lost(valkey_url: str, tmp_path: Path) -> None:
    with workers(valkey_url, 1, simulated_step_ms=20), node(valkey_url, tmp_path) as api:
        api.until(api.serves)
        api.ask(12)
        api.until(lambda: api.shows(ANSWERED, 12))
        (folder,) = tmp_path.glob("headrace-api-*")
        files = {path.name for path in folder.iterdir()}
        with httpx.stream("POST", f"{api.url}/v1/completions", json=BODY | {"max_tokens": 4000, "stream": True}) as it:
            lines = it.iter_lines()
            next(lines)
            api.until(lambda: api.shows("headrace:sse_clients", 1))
            (serving,) = [child for child in api.children() if api.open_to(child)]
            serving.kill()
            serving.wait()
            least = 12.0
            while not api.serves() or serving.pid in [child.pid for child in api.children()]:
                (answered,) = api.scrape(ANSWERED)
                assert answered >= least
                least = answered
        api.until(lambda: api.shows("headrace:sse_clients", 0))
        assert api.shows(ANSWERED, least)
        api.ask(12)
        api.until(lambda: api.shows(ANSWERED, least + 12))
        assert {path.name for path in folder.iterdir()} == files, "no crash leaves a file behind"


def test_all_stop_together_and_finish_what_runs(valkey_url: str, tmp_path: Path) -> None:
    with workers(valkey_url, 1, simulated_step_ms=10), node(valkey_url, tmp_path) as api:
        api.until(api.serves)
        children = api.children()
        body = BODY | {"max_tokens": 150, "stream": True}
        with (
            httpx.stream("POST", f"{api.url}/v1/completions", json=body, timeout=20) as first,
            httpx.stream("POST", f"{api.url}/v1/completions", json=body, timeout=20) as second,
        ):
            streams = [first.iter_lines(), second.iter_lines()]
            for lines in streams:
                next(lines)
            api.process.send_signal(signal.SIGTERM)
            for lines in streams:
                assert "data: [DONE]" in list(lines)
        assert api.process.wait(20) == 0
        assert [child for child in children if child.is_running()] == []
        assert list(tmp_path.glob("headrace-api-*")) == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--api-server-count", "0"], "--api-server-count is to be a number from 1 to 256, not 0"),
        (["--api-server-count", "2", "--uds", "a.sock"], "unix socket"),
        (["--api-server-count", "1000"], "from 1 to 256, not 1000"),
    ],
    ids=["none", "unix socket", "too many"],
)
def test_what_cannot_be_is_said_in_one_line(options: list[str], told: str, tmp_path: Path) -> None:
    command = [HEADRACE, "api", *options, "--redis", "redis://127.0.0.1:1"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=tmp_path, check=False)
    assert ended.returncode == 2
    said = ended.stderr.splitlines()[-1]
    assert re.match(r"headrace: error: ", said)
    assert told in said


def test_a_port_that_somebody_else_has_is_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [HEADRACE, "api", "--api-server-count", "2", "--port", str(taken.getsockname()[1])]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=tmp_path, check=False)
    assert ended.returncode == 2
    assert "Address already in use" in ended.stderr
