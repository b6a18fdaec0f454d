"""A whole system out of real processes: Valkey, workers and API nodes, for tests that speak HTTP."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
from openai import AsyncOpenAI, OpenAI
from ports import free_port
from worker_process import WorkerProcess


class ApiProcess:
    """``python -m headrace_api`` on a Redis URL."""

    def __init__(self, redis_url: str, **settings: object) -> None:
        self.port = free_port()
        environment = {
            **os.environ,
            "HEADRACE_REDIS_URL": redis_url,
            "HEADRACE_API_PORT": str(self.port),
            **{f"HEADRACE_API_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.process = subprocess.Popen([sys.executable, "-P", "-m", "headrace_api"], env=environment)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: object) -> OpenAI:
        return OpenAI(**{"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0, **options})  # type: ignore[arg-type]

    def async_client(self, **options: object) -> AsyncOpenAI:
        return AsyncOpenAI(**{"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0, **options})  # type: ignore[arg-type]

    def wait_until_ready(self, models: int = 1, workers: int = 1, timeout_s: float = 30.0) -> None:
        """Until it serves that many models, with that many workers each."""
        wait_until(lambda: self.serves(models, workers), "the API node serves its models", timeout_s)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def kill(self) -> None:
        """As a lost machine would."""
        self.process.kill()
        self.process.wait()

    def serves(self, models: int, workers: int) -> bool:
        try:
            answer = httpx.get(f"{self.url}/ready")
        except httpx.HTTPError:
            return False
        if answer.status_code != 200:
            return False
        served = answer.json()["models"]
        return len(served) >= models and all(len(model["workers"]) >= workers for model in served)


class Fleet:
    """Starts processes on one Redis and ends them all."""

    def __init__(self, redis_url: str, stack: ExitStack) -> None:
        self.redis_url = redis_url
        self._stack = stack

    def worker(self, **settings: object) -> WorkerProcess:
        worker = WorkerProcess(self.redis_url, **settings)
        self._stack.callback(worker.kill)
        return worker

    def api(self, **settings: object) -> ApiProcess:
        api = ApiProcess(self.redis_url, **settings)
        self._stack.callback(api.stop)
        return api


@contextmanager
def fleet_on(redis_url: str) -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield Fleet(redis_url, stack)


def wait_until(condition: object, what: str, timeout_s: float = 30.0) -> None:
    """Poll ``condition()``; fails the test with ``what`` when it does not come true in time."""
    end = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, f"gave up waiting until {what}"
        time.sleep(0.05)
