"""``headrace serve`` as its user starts it, with the engine that needs no model."""

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from batching import chats, finished, output_of, submit
from certificates import authority, signed
from openai import OpenAI

HEADRACE = Path(sys.executable).parent / "headrace"


class Serve:
    """One running ``headrace serve`` and what it has said so far."""

    def __init__(self, state_dir: Path, *arguments: str) -> None:
        self._said = state_dir.parent / "said.txt"
        place = () if "--uds" in arguments else ("--port", "0")
        command = [HEADRACE, "serve", "--engine", "simulated", *place, "--state-dir", state_dir, *arguments]
        with self._said.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    @property
    def said(self) -> str:
        return self._said.read_text("utf-8")

    def wait_ready(self) -> str:
        """The base URL, once the banner is there."""
        self.until(lambda: "print(chunk" in self.said)
        found = re.search(r"URL +(https?://\S+)/v1", self.said)
        assert found is not None
        return found[1]

    def until(self, condition: Callable[[], bool], timeout_s: float = 40.0) -> None:
        end_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end_s, self.said
            time.sleep(0.02)

    def child(self, mark: str) -> psutil.Process:
        """The child process that has ``mark`` in its command line."""
        (found,) = self.children(mark)
        return found

    def children(self, mark: str) -> list[psutil.Process]:
        """The same; none while it is started again."""
        return [
            c for c in psutil.Process(self.process.pid).children() if any(word.endswith(mark) for word in c.cmdline())
        ]


@contextlib.contextmanager
def ended(running: Serve) -> Iterator[Serve]:
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    with ended(Serve(tmp_path / "state")) as running:
        yield running


def ask(base_url: str) -> int:
    body = {"model": "simulated", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    return httpx.post(f"{base_url}/v1/chat/completions", json=body, timeout=20).status_code


def gone(processes: list[psutil.Process]) -> bool:
    return not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_it_serves_and_a_signal_stops_everything_in_order(serve: Serve, number: signal.Signals) -> None:
    base_url = serve.wait_ready()
    assert ask(base_url) == 200
    children = psutil.Process(serve.process.pid).children(recursive=True)
    assert len(children) == 4
    serve.process.send_signal(number)
    assert serve.process.wait(30) == 0
    assert gone(children)
    said = serve.said
    assert said.index("Finished server process") < said.index("worker leaves")
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", said)  # not a terminal: no control characters


def test_it_listens_on_a_socket_where_it_is_told_to(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with ended(Serve(tmp_path / "state", "--uds", str(path))) as running:
        assert running.wait_ready() == "http://localhost"
        assert f"--unix-socket {path}" in running.said
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=20) as client:
            assert client.get("http://localhost/v1/models").json()["data"][0]["id"] == "simulated"


def test_it_speaks_https_where_it_has_a_certificate(tmp_path: Path) -> None:
    own = authority(tmp_path, "own")
    certificate = signed(tmp_path, "server", own)
    files = ("--ssl-certfile", str(certificate.cert), "--ssl-keyfile", str(certificate.key))
    with ended(Serve(tmp_path / "state", *files, "--api-server-count", "2")) as running:
        base_url = running.wait_ready()
        assert base_url.startswith("https://127.0.0.1:")
        trust = ssl.create_default_context(cafile=str(own.cert))
        assert httpx.get(f"{base_url}/v1/models", verify=trust).json()["data"][0]["id"] == "simulated"
        assert len(running.children("headrace_api")) == 2


def test_certificates_of_clients_are_for_an_api_node_of_its_own(tmp_path: Path) -> None:
    with ended(Serve(tmp_path / "state", "--ssl-cert-reqs", "2")) as running:
        assert running.process.wait(30) == 2
        assert "--ssl-cert-reqs 2" in running.said
        assert "headrace api" in running.said


def test_a_stream_that_runs_when_it_is_told_to_stop_ends_as_it_should(serve: Serve) -> None:
    base_url = serve.wait_ready()
    queue = serve.child("valkey-server")
    body = {"model": "simulated", "prompt": "hi", "max_tokens": 300, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{base_url}/v1/completions", json=body, timeout=20) as answer:
        lines = answer.iter_lines()
        next(lines)
        serve.process.send_signal(signal.SIGTERM)
        serve.until(lambda: "Stopping" in serve.said)
        said = [line for line in lines if line.startswith("data: ")]
    assert said[-1] == "data: [DONE]"
    assert json.loads(said[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
    assert serve.process.wait(20) == 0
    assert gone([queue])


def test_what_still_runs_after_the_grace_is_cut_off(tmp_path: Path) -> None:
    running = Serve(tmp_path / "state", "--grace", "1")
    try:
        base_url = running.wait_ready()
        body = {"model": "simulated", "prompt": "hi", "max_tokens": 8000, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{base_url}/v1/completions", json=body, timeout=20) as answer:
            chunks = answer.iter_raw()
            next(chunks)
            running.process.terminate()
            started_s = time.monotonic()
            assert running.process.wait(20) == 0
            assert 0.9 < time.monotonic() - started_s < 5
        assert "killing it" not in running.said
    finally:
        running.process.kill()
        running.process.wait()


def test_it_works_on_batches_and_keeps_their_files_below_its_state(serve: Serve, tmp_path: Path) -> None:
    with OpenAI(base_url=f"{serve.wait_ready()}/v1", api_key="none", max_retries=0) as client:
        batch = finished(client, submit(client, chats(20)).id)
        assert batch.status == "completed"
        assert len(output_of(client, batch)) == 20
        assert (tmp_path / "state" / "files" / "files" / str(batch.output_file_id)).is_file()


def test_a_killed_worker_and_a_killed_queue_come_back(serve: Serve) -> None:
    base_url = serve.wait_ready()
    for mark, words in (
        ("headrace_api.batch_worker", "was ended by SIGKILL; starting it again"),
        ("headrace_worker", "was ended by SIGKILL; starting it again"),
        ("valkey-server", "has ended; starting it again"),
    ):
        before = serve.child(mark)
        before.kill()
        serve.until(lambda words=words: words in serve.said)
        serve.until(lambda: ask(base_url) == 200)
        serve.until(lambda mark=mark, pid=before.pid: [c.pid for c in serve.children(mark)] not in ([], [pid]))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process's life to its parent's")
def test_killing_it_leaves_nothing_running(serve: Serve) -> None:
    serve.wait_ready()
    children = psutil.Process(serve.process.pid).children(recursive=True)
    serve.process.kill()
    serve.process.wait()
    serve.until(lambda: gone(children))


def test_a_second_ctrl_c_does_not_wait_for_running_requests(serve: Serve) -> None:
    base_url = serve.wait_ready()
    children = psutil.Process(serve.process.pid).children(recursive=True)
    body = {"model": "simulated", "prompt": "hi", "max_tokens": 8000, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{base_url}/v1/completions", json=body, timeout=20) as answer:
        chunks = answer.iter_raw()  # held on to: without it the client hangs up
        next(chunks)
        serve.process.send_signal(signal.SIGINT)
        serve.until(lambda: "Stopping" in serve.said)
        time.sleep(0.3)
        assert serve.process.poll() is None  # it lets the answer go on
        started_s = time.monotonic()
        serve.process.send_signal(signal.SIGINT)
        assert serve.process.wait(10) == 130
        assert time.monotonic() - started_s < 5
    assert gone(children)


def test_chat_and_bench_talk_to_it(serve: Serve, tmp_path: Path) -> None:
    base_url = serve.wait_ready()
    said = subprocess.run(
        [HEADRACE, "chat", "--url", base_url, "--max-tokens", "5"],
        input="hello\n/system be brief\nagain\n/nonsense\n/exit\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.splitlines()
    assert said[0].startswith("Talking to simulated.")
    assert len(said[1].split()) == len(said[3].split()) == 5
    assert said[2] == "The system message is set."
    done = subprocess.run(
        [
            HEADRACE,
            "bench",
            "--url",
            f"{base_url}/v1",
            "-n",
            "20",
            "-c",
            "4",
            "--output-tokens",
            "8",
            "--json",
            tmp_path / "b.json",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "20 completed, 0 failed" in done.stdout
    summary = json.loads((tmp_path / "b.json").read_text())["summary"]
    assert (summary["prompt_tokens"], summary["output_tokens"]) == (20 * 128, 20 * 8)
    lost = subprocess.run(
        [HEADRACE, "bench", "--url", base_url, "--model", "nope", "-n", "1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert lost.returncode == 1
    assert "'nope' does not exist" in lost.stderr


def test_exported_settings_count_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_API_KEYS", "secret")
    monkeypatch.setenv("HEADRACE_WORKER_SERVED_MODEL_NAME", "mine")
    running = Serve(tmp_path / "state")
    try:
        base_url = running.wait_ready()
        assert "YOUR_KEY" in running.said
        assert httpx.get(f"{base_url}/v1/models").status_code == 401
        listed = httpx.get(f"{base_url}/v1/models", headers={"Authorization": "Bearer secret"}).json()
        assert [model["id"] for model in listed["data"]] == ["mine"]
    finally:
        running.process.terminate()
        running.process.wait()


def test_a_port_in_use_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = subprocess.run(
            [HEADRACE, "serve", "--engine", "simulated", "--port", str(port), "--state-dir", tmp_path / "state"],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    assert done.returncode == 2
    assert (
        done.stderr
        == f"headrace: error: cannot listen on 127.0.0.1:{port}: Address already in use; choose another --port or --host\n"
    )
    assert not (tmp_path / "state").exists()


def test_a_second_server_on_the_same_state_folder_is_refused(serve: Serve, tmp_path: Path) -> None:
    serve.wait_ready()
    done = subprocess.run(
        [HEADRACE, "serve", "--engine", "simulated", "--port", "0", "--state-dir", tmp_path / "state"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 1
    assert "is in use by another running headrace" in done.stderr.splitlines()[-1]


def test_a_wrong_setting_stops_everything_with_the_workers_own_words(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            HEADRACE,
            "serve",
            "--engine",
            "simulated",
            "--port",
            "0",
            "--state-dir",
            tmp_path / "state",
            "--block-size",
            "0",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr == "headrace: error: worker: block_size: Input should be greater than or equal to 1\n"


@pytest.mark.parametrize("command", [["api"], ["worker", "simulated", "--engine", "simulated"]], ids=["api", "worker"])
def test_a_single_server_takes_the_place_of_the_command(command: list[str], valkey_url: str) -> None:
    environment = os.environ | {"HEADRACE_API_PORT": "0"}
    server = subprocess.Popen(
        [HEADRACE, *command, "--redis", valkey_url], env=environment, stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    ready = {"api": "Uvicorn running", "worker": "worker ready"}[command[0]]
    with server.stderr as lines:
        assert any(ready in line for line in lines)
        assert psutil.Process(server.pid).children() == []
        server.terminate()
        assert server.wait(20) in (0, -signal.SIGTERM)
