"""``headrace run-batch`` as its user starts it: offline, stopped, killed, and gone on with."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil
from fleet import ApiProcess, Fleet, fleet_on, wait_until

HEADRACE = Path(sys.executable).parent / "headrace"
COUNT = 150


def write(folder: Path, count: int = COUNT) -> Path:
    file = folder / "in.jsonl"
    with file.open("w") as out:
        for number in range(count):
            body = {"prompt": f"p{number}", "max_tokens": 8, "ignore_eos": True, "seed": number}
            line = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/completions", "body": body}
            out.write(json.dumps(line) + "\n")
    return file


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [HEADRACE, "run-batch", "-i", folder / "in.jsonl", "-o", folder / "out.jsonl", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def lines(folder: Path) -> int:
    file = folder / "out.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def check_complete(folder: Path, count: int = COUNT) -> None:
    entries = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert Counter(entry["custom_id"] for entry in entries) == Counter(f"r{number}" for number in range(count))
    assert all(entry["response"]["body"]["usage"]["completion_tokens"] == 8 for entry in entries)


def served(fleet: Fleet) -> ApiProcess:
    """An API node whose model takes its time."""
    fleet.worker(simulated_step_ms=10)
    api = fleet.api()
    api.wait_until_ready()
    return api


def ended(url: str) -> int:
    """The choices that the worker has computed to their end."""
    (target,) = httpx.get(f"{url}/metrics/targets").json()[0]["targets"]
    text = httpx.get(f"http://{target}/metrics").text
    return sum(
        int(float(line.split()[-1])) for line in text.splitlines() if line.startswith("vllm:request_success_total{")
    )


OFFLINE = ("--model", "simulated", "--engine", "simulated", "--simulated-step-ms", "10", "-c", "8")


def test_offline_it_goes_on_after_kill_9_and_leaves_nothing_running(tmp_path: Path) -> None:
    write(tmp_path)
    kept = b""
    for part in (1, 2):
        running = start(tmp_path, *OFFLINE)
        wait_until(lambda part=part: lines(tmp_path) > part * COUNT // 4, "some lines have answers")
        children = psutil.Process(running.pid).children(recursive=True)
        running.kill()
        assert running.communicate()[1].partition("Traceback")[1] == ""
        psutil.wait_procs(children, timeout=15)
        assert not [p for p in children if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        now = (tmp_path / "out.jsonl").read_bytes()
        assert now.startswith(kept)
        kept = now[: now.rfind(b"\n") + 1]
    done = start(tmp_path, *OFFLINE)
    said = done.communicate(timeout=60)[1]
    assert done.returncode == 0, said
    assert f"of {COUNT} lines have their answers" in said
    assert (tmp_path / "out.jsonl").read_bytes().startswith(kept)
    check_complete(tmp_path)


def test_ctrl_c_ends_it_and_says_how_to_go_on(tmp_path: Path) -> None:
    write(tmp_path)
    running = start(tmp_path, *OFFLINE)
    wait_until(lambda: lines(tmp_path) > 10, "some lines have answers")
    children = psutil.Process(running.pid).children(recursive=True)
    running.send_signal(signal.SIGINT)
    said = running.communicate(timeout=30)[1]
    assert running.returncode == 130
    assert "Traceback" not in said
    assert f"of {COUNT} are left; the same command goes on from {tmp_path / 'out.jsonl'}" in said.splitlines()[-1]
    psutil.wait_procs(children, timeout=15)
    assert not [p for p in children if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    done = start(tmp_path, *OFFLINE)
    assert done.communicate(timeout=60)[1]
    check_complete(tmp_path)


def test_a_model_that_is_not_there_ends_it_with_the_workers_words(tmp_path: Path) -> None:
    write(tmp_path)
    running = start(tmp_path, "--model", tmp_path / "none")
    assert f"no such file or directory: {tmp_path / 'none'}" in running.communicate(timeout=60)[1]
    assert running.returncode == 2
    running = start(tmp_path, "--model", "simulated", "--engine", "simulated", "--block-size", "0")
    assert "headrace: error: worker: block_size" in running.communicate(timeout=60)[1]
    assert running.returncode == 2


def test_streams_take_the_place_of_files(valkey_url: str, tmp_path: Path) -> None:
    source = write(tmp_path, 20)
    with fleet_on(valkey_url) as fleet:
        url = served(fleet).url
        command = [HEADRACE, "run-batch", "-i", "-", "-o", "-", "--url", url]
        with source.open("rb") as stdin:
            done = subprocess.run(command, stdin=stdin, capture_output=True, check=True, timeout=60)
    (tmp_path / "out.jsonl").write_bytes(done.stdout)
    check_complete(tmp_path, 20)
    assert b"stdout has an answer for all 20" in done.stderr


def test_a_killed_run_finds_its_running_requests_again(valkey_url: str, tmp_path: Path) -> None:
    write(tmp_path)
    with fleet_on(valkey_url) as fleet:
        api = served(fleet)
        arguments = ("--url", api.url, "-c", "8")
        running = start(tmp_path, *arguments)
        wait_until(lambda: lines(tmp_path) > COUNT // 4, "some lines have answers")
        running.kill()
        running.communicate()
        done = start(tmp_path, *arguments)
        assert done.communicate(timeout=60)[1]
        check_complete(tmp_path)
        entries = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        # As many requests as lines: none was computed for nobody.
        assert len({entry["response"]["request_id"] for entry in entries}) == COUNT
        assert ended(api.url) == COUNT


def test_an_api_node_that_is_replaced_is_waited_for(valkey_url: str, tmp_path: Path) -> None:
    write(tmp_path)
    with fleet_on(valkey_url) as fleet:
        first = served(fleet)
        running = start(tmp_path, "--url", first.url, "-c", "8")
        wait_until(lambda: lines(tmp_path) > COUNT // 4, "some lines have answers")
        first.process.kill()
        first.process.wait()
        time.sleep(1.0)
        again = fleet.api(port=first.port)
        again.port = first.port
        said = running.communicate(timeout=60)[1]
    assert running.returncode == 0, said
    assert "trying again: " in said
    check_complete(tmp_path)
