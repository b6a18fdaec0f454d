"""A worker and the CPUs that it is bound to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from queue_client import queue_client
from worker_process import card_of_fleet, workers

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to CPUs")


def _cpus_of_threads(pid: int) -> list[set[int]]:
    return [os.sched_getaffinity(int(thread.name)) for thread in Path(f"/proc/{pid}/task").iterdir()]


async def test_a_worker_is_bound_before_its_threads_start(valkey_url: str) -> None:
    cpu = max(os.sched_getaffinity(0))
    async with queue_client(valkey_url) as client:
        with workers(valkey_url, 1, cpu_affinity=cpu) as [worker]:
            await card_of_fleet(client.presence, 1)
            found = _cpus_of_threads(worker.process.pid)
    assert len(found) > 1
    assert all(each == {cpu} for each in found)


def test_a_worker_that_cannot_be_bound_does_not_start(valkey_url: str) -> None:
    worker = subprocess.run(
        [sys.executable, "-P", "-m", "headrace_worker"],
        env=os.environ
        | {
            "HEADRACE_WORKER_MODEL": "m",
            "HEADRACE_WORKER_ENGINE": "simulated",
            "HEADRACE_WORKER_CPU_AFFINITY": "9999",
            "HEADRACE_REDIS_URL": valkey_url,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert worker.returncode == 2
    assert worker.stderr.startswith(
        "headrace worker: error: cpu_affinity: CPU 9999 cannot be used by this process, only "
    )
