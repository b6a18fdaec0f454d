"""The supervisor, with real processes."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from headrace_cli.processes import ProcessSpec, RestartPolicy, Supervisor

Log = list[tuple[str, str]]

QUICK = RestartPolicy(first_delay_s=0.02, max_delay_s=0.08, healthy_s=30.0, start_attempts=3)
FOREVER = "while :; do sleep 0.05; done"


def shell(name: str, script: str, stop_timeout_s: float = 10.0) -> ProcessSpec:
    return ProcessSpec(name, ("/bin/sh", "-c", script), dict(os.environ), stop_timeout_s)


@pytest.fixture
def log() -> Log:
    return []


@pytest.fixture
async def supervisor(log: Log) -> AsyncIterator[Supervisor]:
    made = Supervisor(lambda name, line: log.append((name, line)), QUICK)
    yield made
    made.kill()
    await made.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


async def until_said(log: Log, line: str, times: int = 1) -> None:
    await until(lambda: [said for _, said in log].count(line) >= times)


async def until_gone(pid: int) -> None:
    await until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


async def test_a_crashed_process_is_started_again_after_ever_longer_delays(supervisor: Supervisor, log: Log) -> None:
    supervisor.settle()
    supervisor.start(shell("worker", "echo up; exit 7"))
    await until_said(log, "up", times=5)
    delays = [line for _, line in log if "starting it again" in line]
    assert delays[:4] == [f"ended with exit status 7; starting it again in {s} s" for s in (0.02, 0.04, 0.08, 0.08)]


async def test_a_long_healthy_run_makes_earlier_crashes_forgotten(log: Log) -> None:
    policy = RestartPolicy(first_delay_s=0.01, max_delay_s=1.0, healthy_s=0.0)
    supervisor = Supervisor(lambda name, line: log.append((name, line)), policy)
    supervisor.start(shell("worker", "echo up; exit 7"))
    await until_said(log, "up", times=4)
    supervisor.kill()
    await supervisor.stop()
    assert {line for _, line in log if "again" in line} == {"ended with exit status 7; starting it again in 0.01 s"}


async def test_a_configuration_error_is_final_and_told_in_the_process_own_words(
    supervisor: Supervisor, log: Log
) -> None:
    supervisor.start(shell("worker", "echo 'headrace worker: error: no such model: x' >&2; exit 2"))
    failure = await asyncio.wait_for(supervisor.failure(), 10)
    assert failure.message == "worker: no such model: x"
    assert failure.exit_code == 2


async def test_a_process_that_never_comes_up_is_given_up(supervisor: Supervisor) -> None:
    supervisor.start(shell("api", "echo ImportError; exit 1"))
    failure = await asyncio.wait_for(supervisor.failure(), 10)
    assert failure.message == "api: failed 3 times at its start (ended with exit status 1): ImportError"
    assert failure.exit_code == 1


async def test_once_everything_came_up_no_number_of_crashes_is_too_many(supervisor: Supervisor, log: Log) -> None:
    supervisor.settle()
    supervisor.start(shell("worker", "echo up; kill -SEGV $$"))
    await until_said(log, "up", times=QUICK.start_attempts + 2)
    assert any(line.startswith("was ended by SIGSEGV") for _, line in log)


async def test_a_command_that_does_not_exist_is_a_failure(supervisor: Supervisor) -> None:
    supervisor.start(ProcessSpec("api", ("/nonexistent/program",), {}))
    failure = await asyncio.wait_for(supervisor.failure(), 10)
    assert failure.message == "api: cannot be started: No such file or directory"


async def test_stopping_goes_backwards_and_one_after_the_other(supervisor: Supervisor, log: Log) -> None:
    supervisor.settle()
    for name in ("queue", "worker", "api"):
        supervisor.start(shell(name, f"trap 'sleep 0.1; echo bye; exit 0' TERM; echo up; {FOREVER}"))
    await until_said(log, "up", times=3)
    await supervisor.stop()
    assert [name for name, line in log if line == "bye"] == ["api", "worker", "queue"]
    assert supervisor.pids() == {}


async def test_what_ignores_sigterm_is_killed_after_its_timeout(supervisor: Supervisor, log: Log) -> None:
    supervisor.settle()
    supervisor.start(shell("worker", f"trap '' TERM; echo up; {FOREVER}", stop_timeout_s=0.2))
    await until_said(log, "up")
    pid = supervisor.pids()["worker"]
    await supervisor.stop()
    assert ("worker", "did not stop within 0.2 s, killing it") in log
    assert not psutil.pid_exists(pid)


async def test_kill_cuts_a_slow_stop_short(supervisor: Supervisor, log: Log) -> None:
    supervisor.settle()
    supervisor.start(shell("worker", f"trap '' TERM; echo up; {FOREVER}", stop_timeout_s=60))
    await until_said(log, "up")
    stopping = asyncio.create_task(supervisor.stop())
    await asyncio.sleep(0.05)
    supervisor.kill()
    await asyncio.wait_for(stopping, 5)


async def test_stopping_a_process_that_waits_for_its_restart_does_not_start_it(log: Log) -> None:
    supervisor = Supervisor(
        lambda name, line: log.append((name, line)), RestartPolicy(first_delay_s=30, max_delay_s=30)
    )
    supervisor.start(shell("worker", "echo up; exit 7"))
    await until_said(log, "ended with exit status 7; starting it again in 30 s")
    await asyncio.wait_for(supervisor.stop(), 5)
    assert [line for _, line in log].count("up") == 1


async def test_what_a_process_left_behind_is_ended_with_it(supervisor: Supervisor, log: Log) -> None:
    supervisor.settle()
    supervisor.start(shell("worker", "sleep 300 & echo $!; sleep 0.1; exit 7"))
    await until_said(log, "ended with exit status 7; starting it again in 0.02 s")
    await until_gone(int(log[0][1]))


async def test_every_line_arrives_also_the_last_one_without_an_end(supervisor: Supervisor, log: Log) -> None:
    supervisor.start(shell("worker", r"printf 'one\n\377two\n10%%\r20%%\r\nhalf'; exit 2"))
    await asyncio.wait_for(supervisor.failure(), 10)
    assert [line for _, line in log] == ["one", "\ufffdtwo", "20%", "half"]


async def test_an_endless_line_is_cut_and_never_held_in_memory(supervisor: Supervisor, log: Log) -> None:
    supervisor.start(shell("worker", "head -c 300000 /dev/zero | tr '\\0' x; exit 2"))
    await asyncio.wait_for(supervisor.failure(), 10)
    assert sum(len(line) for _, line in log) == 300_000
    assert max(len(line) for _, line in log) < 200_000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process's life to its parent's")
def test_killing_the_supervisor_leaves_nothing_running(tmp_path: Path) -> None:
    script = tmp_path / "supervise.py"
    script.write_text(
        "import asyncio, os\n"
        "from headrace_cli.processes import ProcessSpec, Supervisor\n"
        "async def main():\n"
        "    supervisor = Supervisor(lambda name, line: print(line, flush=True))\n"
        "    for name in ('a', 'b'):\n"
        "        supervisor.start(ProcessSpec(name, ('/bin/sh', '-c', 'echo $$; exec sleep 300'), dict(os.environ)))\n"
        "    await supervisor.failure()\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(parent.stdout.readline()) for _ in range(2)]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    started_s = time.monotonic()
    for pid in pids:
        asyncio.run(until_gone(pid))
    assert time.monotonic() - started_s < 5
