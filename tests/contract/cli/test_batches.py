"""``headrace batches`` on a real API node and a real batch worker."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from batching import chats, item, running_batch_worker
from live_api import Api, running_api
from scripted_worker import ScriptedWorker, running_worker
from typer.testing import CliRunner, Result

from headrace_cli.errors import CliError
from headrace_cli.main import app
from headrace_cli.terminal import Terminal


async def batches(*arguments: str) -> Result:
    result = await asyncio.to_thread(CliRunner().invoke, app, ["batches", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
async def worker(valkey_url: str) -> AsyncIterator[ScriptedWorker]:
    async with running_worker(valkey_url, "simulated") as worker:
        yield worker


@pytest.fixture
async def api(valkey_url: str, worker: ScriptedWorker, tmp_path: Path) -> AsyncIterator[Api]:
    async with running_batch_worker(valkey_url, tmp_path), running_api(valkey_url, files=str(tmp_path)) as api:
        yield api


async def submit(api: Api, content: bytes) -> Any:
    file = await api.sdk.files.create(file=("in.jsonl", content), purpose="batch")
    return await api.sdk.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")


async def test_one_is_followed_to_its_end_and_then_listed_and_shown(api: Api) -> None:
    assert (await batches("list", "--url", api.base_url)).output == "There are no batches.\n"
    batch = await submit(api, chats(5))
    watched = await batches("watch", batch.id, "--url", f"{api.base_url}/v1/")
    assert watched.exit_code == 0, watched.output
    assert f"{batch.id} is completed, 5 of 5 completed, 0 failed" in watched.output
    shown = json.loads((await batches("show", batch.id, "--url", api.base_url)).output)
    assert (shown["status"], shown["request_counts"]["completed"]) == ("completed", 5)
    assert f"output: {shown['output_file_id']}" in watched.output
    newer = await submit(api, chats(1))
    listed = json.loads((await batches("list", "--json", "--url", api.base_url)).output)
    assert [each["id"] for each in listed] == [newer.id, batch.id]
    assert len(json.loads((await batches("list", "-n", "1", "--json", "--url", api.base_url)).output)) == 1
    row = next(line for line in (await batches("list", "--url", api.base_url)).output.splitlines() if batch.id in line)
    assert row.split("\t")[1:4] == ["completed", "5/5", "0"]
    assert "\x1b" not in row


async def test_a_batch_that_is_not_valid_tells_why_and_ends_with_status_1(api: Api) -> None:
    batch = await submit(api, b"not json\n" + item("a", {"model": "simulated", "messages": []}).encode())
    watched = await batches("watch", batch.id, "--url", api.base_url)
    assert watched.exit_code == 1
    assert f"{batch.id} is failed" in watched.output
    assert "line 1: This line is not parseable" in watched.output


async def test_some_are_cancelled(api: Api, worker: ScriptedWorker) -> None:
    await worker.stop_claiming()
    ids = [(await submit(api, chats(3))).id for _ in range(2)]
    cancelled = (await batches("cancel", *ids, "--url", api.base_url)).output.splitlines()
    assert [line.split(" is cancel")[0] for line in cancelled] == ids
    for batch_id in ids:
        watched = await batches("watch", batch_id, "--url", api.base_url)
        assert watched.exit_code == 1
        assert f"{batch_id} is cancelled" in watched.output


async def test_one_is_followed_while_it_is_cancelled(api: Api, worker: ScriptedWorker) -> None:
    await worker.stop_claiming()
    batch = await submit(api, chats(3))
    watching = asyncio.create_task(batches("watch", batch.id, "--url", api.base_url))
    await asyncio.sleep(0.5)
    await api.sdk.batches.cancel(batch.id)
    watched = await watching
    assert watched.exit_code == 1
    assert f"{batch.id} is cancelled" in watched.output


@pytest.mark.parametrize("command", ["show", "watch", "cancel"])
async def test_one_that_is_not_there_is_named(api: Api, command: str) -> None:
    with pytest.raises(CliError, match="batch_none"):
        await batches(command, "batch_none", "--url", api.base_url)


@pytest.mark.parametrize("command", [["list"], ["show", "b"], ["watch", "b"], ["cancel", "b"]])
async def test_a_server_that_is_not_there_is_told(command: list[str]) -> None:
    with pytest.raises(CliError, match=r"cannot talk to http://127\.0\.0\.1:1"):
        await batches(*command, "--url", "127.0.0.1:1")


@pytest.mark.parametrize("command", ["list", "show", "watch", "cancel"])
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    shown = CliRunner().invoke(app, ["batches", command, "--help"])
    assert f"headrace batches {command}" in shown.output.split("Example")[1]


def test_the_bar_begins_with_what_has_ended_and_failed_and_takes_many_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Terminal().tallying("Items", 1000, 400, 30) as tally:
        tally.ended(well=True, count=250)
        tally.ended(well=False, count=50)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("Items: 650 of 1,000, 30 failed, ")
    assert second.startswith("Items: 700 of 1,000, 80 failed, ")
