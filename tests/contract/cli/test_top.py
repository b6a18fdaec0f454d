"""``headrace top`` on a real API node."""

import asyncio
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest
from live_api import running_api
from scripted_worker import ScriptedWorker, running_worker
from typer.testing import CliRunner

from headrace_cli.errors import CliError
from headrace_cli.main import app
from headrace_cli.top.screen import phases_ms

CHAT = "/v1/chat/completions"
HI = {"messages": [{"role": "user", "content": "hi"}]}


async def top(*arguments: str) -> str:
    result = await asyncio.to_thread(CliRunner().invoke, app, ["top", "--once", *arguments])
    if isinstance(result.exception, CliError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


async def test_one_picture_has_models_workers_lanes_and_requests(valkey_url: str) -> None:
    async with running_worker(valkey_url) as worker, running_api(valkey_url, first_event_wait_s=0) as api:
        worker.figures = {"kv_blocks_total": 100, "kv_blocks_free": 25, "max_num_seqs": 8, "running": 3, "step_ms": 7.5}
        await api.http.post(CHAT, json=HI, headers={"X-Headrace-Tenant": "ann"})
        await worker.stop_claiming()
        async with api.http.stream("POST", CHAT, json={**HI, "stream": True, "priority": -4}):
            deadline = time.monotonic() + 10
            while "waiting 1" not in (shown := await top("--url", api.base_url)) or "75%" not in shown:
                assert time.monotonic() < deadline, shown
    assert re.search(r"^tiny +running 0/8 +waiting 1 \(\d+ tokens\)", shown, re.MULTILINE)
    assert re.search(r"ready +\S+ 75% +3/8 +0 +7\.5 ms", shown)
    assert re.search(r"^ +-4 +\S+ 1 ", shown, re.MULTILINE)
    assert re.search(r"tiny +ann +0 .*finished", shown)
    assert re.search(r"-4 .* running", shown)
    assert "\x1b" not in shown


async def test_the_key_is_sent_and_a_missing_one_is_told_with_what_to_do(valkey_url: str) -> None:
    async with running_worker(valkey_url), running_api(valkey_url, api_keys="k") as api:
        assert "tiny" in await top("--url", f"{api.base_url}/v1/", "--api-key", "k")
        with pytest.raises(CliError, match="--api-key"):
            await top("--url", api.base_url)
        with pytest.raises(CliError, match="no API node of Headrace"):
            await top("--url", f"{api.base_url}/elsewhere", "--api-key", "k")


async def test_a_node_that_is_not_there_is_told() -> None:
    with pytest.raises(CliError, match=r"cannot follow http://127\.0\.0\.1:1"):
        await top("--url", "127.0.0.1:1")


async def test_names_cannot_drive_the_terminal(valkey_url: str) -> None:
    async with running_worker(valkey_url, "ti\x1b[2Jny") as worker, running_api(valkey_url) as api:
        assert "tiny" in await top("--url", api.base_url), worker.card.name


async def test_in_a_terminal_it_goes_on_until_q_is_pressed(valkey_url: str) -> None:
    async with running_worker(valkey_url) as worker, running_api(valkey_url) as api:
        shown = await asyncio.to_thread(_in_a_terminal, api.base_url, worker)
    assert "headrace top" in shown
    assert "live" in shown
    assert "tiny" in shown


def _in_a_terminal(url: str, _worker: ScriptedWorker) -> str:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "from headrace_cli.main import main; main()", "top", "--url", url]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "140", "LINES": "40"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    try:
        shown = b""
        deadline = time.monotonic() + 30
        while b"tiny" not in shown and time.monotonic() < deadline:
            if select.select([ours], [], [], 0.2)[0]:
                shown += os.read(ours, 65536)
        os.write(ours, b"q")
        assert process.wait(10) == 0
        return shown.decode(errors="replace")
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(ours)


def test_without_a_terminal_it_says_what_to_do() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from headrace_cli.main import main; main()", "top"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "headrace: error: top needs a terminal; --once prints one picture\n")


@pytest.mark.parametrize(
    ("marks", "phases"),
    [
        ((None, None, None, None, None), [("prepare", 0, 900)]),
        ((10, 12, None, None, None), [("prepare", 0, 10), ("enqueue", 10, 12), ("queue", 12, 900)]),
        (
            (10, 12, 100, 200, 700),
            [("prepare", 0, 10), ("enqueue", 10, 12), ("queue", 12, 112), ("prefill", 112, 200), ("decode", 200, 700)],
        ),
        ((10, None, None, None, 11), [("prepare", 0, 10), ("enqueue", 10, 11)]),
    ],
    ids=["new", "waiting", "finished", "refused"],
)
def test_phases_follow_each_other_without_gaps(
    marks: tuple[float | None, ...], phases: list[tuple[str, float, float]]
) -> None:
    names = ("prepared_ms", "enqueued_ms", "queue_ms", "first_token_ms", "ended_ms")
    request = dict(zip(names, marks, strict=True)) | {"arrived_ms": 100}
    assert phases_ms(request, 1000) == phases
