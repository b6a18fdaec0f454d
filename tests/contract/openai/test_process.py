"""``python -m headrace_api`` as a process: light, quiet about its errors, clean in its end."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psutil  # type: ignore[import-untyped]
from eventually import eventually
from ports import free_port
from scripted_worker import ScriptedWorker

MIB = 1024 * 1024


@contextmanager
def process(**environment: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "headrace_api"],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


async def test_a_process_serves_in_little_memory_and_ends_cleanly(valkey_url: str, worker: ScriptedWorker) -> None:
    port = free_port()
    with process(HEADRACE_REDIS_URL=valkey_url, HEADRACE_API_PORT=str(port), HEADRACE_API_LOG_FORMAT="json") as running:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:

            async def serves() -> bool:
                try:
                    return (await http.get("/ready")).status_code == 200
                except httpx.ConnectError:
                    return False

            await eventually(serves, 20)
            for _ in range(20):
                assert (await http.post("/v1/completions", json={"prompt": "hi"})).status_code == 200
        assert psutil.Process(running.pid).memory_info().rss < 200 * MIB
        running.send_signal(signal.SIGTERM)
        _, log = running.communicate(timeout=10)
        assert running.returncode == 0
        assert '"message": "request answered"' in log
        assert "Traceback" not in log


def test_a_wrong_setting_is_one_line_and_status_2() -> None:
    with process(HEADRACE_API_PORT="no", HEADRACE_API_LOG_LEVEL="info") as running:
        _, told = running.communicate(timeout=20)
    assert running.returncode == 2
    assert told.startswith("headrace api: error: port: ")
    assert told.count("\n") == 1


def test_the_application_is_built_without_torch() -> None:
    code = (
        "import sys; from headrace_api.app import create_app; from headrace_api.settings import ApiSettings;"
        "create_app(ApiSettings()); print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"
