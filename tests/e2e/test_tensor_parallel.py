"""Workers whose model is split over two processes, through HTTP: the same answers, and nothing left behind or lost."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from constrained import save_served_model
from fleet import ApiProcess, Fleet, fleet_on, wait_until
from worker_process import WorkerProcess

from headrace_cli.embedded_redis import EmbeddedRedis

MODEL = "split"
LONG = {"max_tokens": 900, "temperature": 0, "ignore_eos": True}
ASKED: list[dict[str, Any]] = [
    {"max_tokens": 40, "temperature": 0},
    {"max_tokens": 30, "n": 3, "temperature": 1.0},
    {"max_tokens": 20, "temperature": 0, "guided_choice": ["cat", "dog"]},
]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(450)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_served_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with EmbeddedRedis(tmp_path_factory.mktemp("valkey")) as server, fleet_on(server.url) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def api(system: Fleet) -> ApiProcess:
    node = system.api(no_worker_grace_s=120)
    wait_until(lambda: _listens(node), "the API node listens")
    return node


def _listens(node: ApiProcess) -> bool:
    try:
        return httpx.get(f"{node.url}/ping").is_success
    except httpx.HTTPError:
        return False


def start(system: Fleet, api: ApiProcess, folder: Path, ranks: int) -> WorkerProcess:
    """A worker that is alone with the model, ready."""
    wait_until(lambda: not api.serves(1, 1), "the one before it is forgotten")
    worker = system.worker(
        model=str(folder),
        served_model_name=MODEL,
        engine="torch",
        device="cpu",
        threads=1,
        kv_cache_memory="16MiB",
        tensor_parallel_size=ranks,
    )
    wait_until(lambda: worker.process.poll() is not None or api.serves(1, 1), "the worker is ready", 100)
    assert worker.process.poll() is None
    return worker


def ask(api: ApiProcess, **fields: Any) -> list[dict[str, Any]]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "seed": 4, **fields}
    answer = httpx.post(f"{api.url}/v1/chat/completions", json=body, timeout=200)
    assert answer.status_code == 200, answer.text
    choices: list[dict[str, Any]] = answer.json()["choices"]
    return choices


class Stream:
    """A long answer, read by a thread of its own."""

    def __init__(self, api: ApiProcess) -> None:
        self._api = api
        self.text = ""
        self.chunks = 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def whole_text(self) -> str:
        self._thread.join(150)
        assert not self._thread.is_alive()
        return self.text

    def _read(self) -> None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "seed": 4, "stream": True, **LONG}
        with httpx.stream("POST", f"{self._api.url}/v1/chat/completions", json=body, timeout=200) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    self.text += json.loads(line.removeprefix("data: "))["choices"][0]["delta"].get("content") or ""
                    self.chunks += 1


def children(worker: WorkerProcess) -> list[int]:
    """The processes that it has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == worker.process.pid and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_split_model_answers_as_a_whole_one_and_outlives_its_processes(
    system: Fleet, api: ApiProcess, folder: Path
) -> None:
    whole = start(system, api, folder, ranks=1)
    expected = [ask(api, **fields) for fields in ASKED]
    text = ask(api, **LONG)[0]["message"]["content"]
    whole.kill()

    split = start(system, api, folder, ranks=2)
    assert [ask(api, **fields) for fields in ASKED] == expected
    (follower,) = children(split)
    stream = Stream(api)
    wait_until(lambda: stream.chunks > 20, "the stream has begun")
    os.kill(follower, signal.SIGKILL)
    assert split.process.wait(timeout=20) == 1
    assert len(stream.text) < len(text)

    other = start(system, api, folder, ranks=2)
    assert stream.whole_text() == text
    (follower,) = children(other)
    other.kill()
    wait_until(lambda: not is_alive(follower), "its process has ended with it", 5)


def test_an_idle_worker_ends_with_its_processes_and_they_with_it(system: Fleet, api: ApiProcess, folder: Path) -> None:
    worker = start(system, api, folder, ranks=2)
    (follower,) = children(worker)
    # What a terminal's Ctrl-C sends to all of them is for the first one to act on.
    os.kill(follower, signal.SIGINT)
    os.kill(follower, signal.SIGTERM)
    assert ask(api, max_tokens=3)
    assert worker.terminate() == 0
    wait_until(lambda: not is_alive(follower), "its process has ended with it", 5)

    worker = start(system, api, folder, ranks=2)
    (follower,) = children(worker)
    os.kill(follower, signal.SIGKILL)
    assert worker.process.wait(timeout=20) == 1
