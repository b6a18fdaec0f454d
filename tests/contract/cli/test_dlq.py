"""``headrace dlq`` on a real queue with a request that has cost too many workers."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from dead_letters import bury
from typer.testing import CliRunner, Result

from headrace_cli.errors import CliError
from headrace_cli.main import app
from headrace_shared.model_card import ModelCard
from headrace_shared.queue.client import connect
from headrace_shared.queue.presence import Presence, WorkerState
from headrace_shared.queue.requests import QueueLimits, RequestQueue
from headrace_shared.settings import RedisSettings

CARD = ModelCard(name="owner/model", aliases=("nick",), max_model_len=64, vocab_size=300, tokenizer="0")
OTHER = ModelCard(name="other", max_model_len=64, vocab_size=300, tokenizer="0")


@dataclass
class Dlq:
    """The command line, on one Redis."""

    url: str

    def __call__(self, *arguments: str, typed: str | None = None) -> Result:
        return CliRunner().invoke(app, ["dlq", *arguments, "--redis", self.url], input=typed)

    def listed(self, *arguments: str) -> list[dict[str, object]]:
        result = self("list", "--json", *arguments)
        assert result.exit_code == 0, result.output
        return list(json.loads(result.output))


@pytest.fixture
def dlq(valkey_url: str) -> Dlq:
    """Two dead letters of one model, none of another."""
    asyncio.run(_bury(valkey_url, "first", "second"))
    return Dlq(valkey_url)


async def _bury(url: str, *request_ids: str) -> None:
    redis = connect(RedisSettings(url=url))
    try:
        presence = Presence(redis)
        for card in (CARD, OTHER):
            state = WorkerState(worker_id=card.name, queue=card.queue, card_digest=card.digest)
            await presence.announce(card, state, 1000)
    finally:
        await redis.aclose()
    await bury(url, CARD.queue, *request_ids, prompt_tokens=3)


async def _waiting(url: str) -> int:
    redis = connect(RedisSettings(url=url))
    try:
        return (await RequestQueue(redis, QueueLimits()).depth(CARD.queue)).queued_requests
    finally:
        await redis.aclose()


def test_a_list_tells_who_died_of_what_newest_first(dlq: Dlq) -> None:
    listed = dlq.listed()
    assert [letter["request_id"] for letter in listed] == ["second", "first"]
    assert (
        listed[0].items()
        >= {
            "queue": CARD.queue,
            "lost_workers": 1,
            "last_worker": "doomed-second",
            "frames": 1,
            "tenant": "ann",
            "priority": 0,
        }.items()
    )
    plain = dlq("list").output
    assert "owner-model" in plain
    assert plain.index("second") < plain.index("first")


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["--model", "owner/model"], 2),
        (["--model", "nick"], 2),
        (["--model", "other"], 0),
        (["--queue", CARD.queue], 2),
        (["--queue", OTHER.queue], 0),
        (["-n", "1"], 1),
    ],
)
def test_options_choose_what_is_listed(dlq: Dlq, options: list[str], count: int) -> None:
    assert len(dlq.listed(*options)) == count


def test_one_is_shown_with_its_job_and_what_was_said(dlq: Dlq) -> None:
    shown = json.loads(dlq("show", str(dlq.listed()[0]["entry"])).output)
    assert shown["job"]["prompt"] == [300, 301, 302]
    assert "seven" in json.dumps(shown["said_last"])


def test_a_retried_one_waits_again_and_is_no_letter_any_more(dlq: Dlq) -> None:
    entry = str(dlq.listed()[0]["entry"])
    result = dlq("retry", entry)
    assert result.exit_code == 0, result.output
    assert f"{entry} is queued again as " in result.output
    assert [letter["request_id"] for letter in dlq.listed()] == ["first"]
    assert asyncio.run(_waiting(dlq.url)) == 1


def test_nothing_is_purged_without_a_yes(dlq: Dlq) -> None:
    refused = dlq("purge", typed="n\n")
    assert "Delete all dead letters of" in refused.output
    assert isinstance(refused.exception, CliError)
    assert len(dlq.listed()) == 2
    assert dlq("purge", typed="y\n").output.endswith("Deleted: 2\n")
    assert dlq("list").output == "There are no dead letters.\n"


def test_named_ones_are_purged_alone(dlq: Dlq) -> None:
    entry = str(dlq.listed()[0]["entry"])
    assert dlq("purge", entry, "--yes").output == "Deleted: 1\n"
    assert [letter["request_id"] for letter in dlq.listed()] == ["first"]


@pytest.mark.parametrize("command", [["show"], ["retry"]])
def test_an_entry_that_is_not_there_is_named(dlq: Dlq, command: list[str]) -> None:
    result = dlq(*command, "1-1")
    assert isinstance(result.exception, CliError)
    assert result.exception.message == "there is no dead letter 1-1"


def test_a_model_that_nobody_serves_is_an_error(dlq: Dlq) -> None:
    result = dlq("list", "--model", "nobody")
    assert isinstance(result.exception, CliError)
    assert "'nobody'" in result.exception.message


def test_without_redis_it_says_so(tmp_path: Path) -> None:
    result = Dlq(f"unix://{tmp_path}/nothing.sock")("list")
    assert isinstance(result.exception, CliError)
    assert result.exception.message == "Redis cannot be reached"


def test_a_wrong_address_is_a_configuration_error() -> None:
    result = Dlq("http://localhost")("list")
    assert isinstance(result.exception, CliError)
    assert result.exception.exit_code == 2
    assert "redis://" in result.exception.message


@pytest.mark.parametrize("command", ["list", "show", "retry", "purge"])
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    shown = CliRunner().invoke(app, ["dlq", command, "--help"])
    assert f"headrace dlq {command}" in shown.output.split("Example")[1]
