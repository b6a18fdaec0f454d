import asyncio
import json
import logging
import sys

import pytest

from headrace_shared.telemetry import repeats
from headrace_shared.telemetry.context import current_request_id, note_trace, request_scope
from headrace_shared.telemetry.logs import ConsoleFormatter, JsonFormatter
from headrace_shared.telemetry.redaction import HIDDEN, Redaction


def record(message: str = "model loaded", **fields: object) -> logging.LogRecord:
    made = logging.getLogger("headrace.test").makeRecord(
        "headrace.test", logging.INFO, "f", 1, message, (), None, extra=fields
    )
    made.created, made.msecs = 0.5, 500.0
    return made


def test_a_json_line_carries_fields_and_the_request_id() -> None:
    with request_scope("r-1"):
        line = json.loads(JsonFormatter().format(record(model="tiny", tokens=3)))
    assert line == {
        "time": "1970-01-01T00:00:00.500Z",
        "level": "info",
        "logger": "headrace.test",
        "message": "model loaded",
        "model": "tiny",
        "tokens": 3,
        "request_id": "r-1",
    }


def test_a_console_line_is_one_line_whatever_it_says() -> None:
    line = ConsoleFormatter().format(record("a\nb", model="x y", empty=""))
    assert line == '1970-01-01T00:00:00.500Z INFO    headrace.test: a\\nb model="x y" empty=""'


def test_an_explicit_request_id_beats_the_context() -> None:
    with request_scope("context"):
        line = json.loads(JsonFormatter().format(record(request_id="explicit")))
    assert line["request_id"] == "explicit"


@pytest.mark.parametrize("formatter", [JsonFormatter(), ConsoleFormatter()])
def test_a_traceback_comes_along(formatter: logging.Formatter) -> None:
    made = record()
    try:
        raise ValueError("boom")
    except ValueError:
        made.exc_info = sys.exc_info()
    assert "ValueError: boom" in formatter.format(made)


async def test_tasks_keep_the_request_they_were_started_for() -> None:
    async def seen() -> str | None:
        await asyncio.sleep(0)
        return current_request_id()

    with request_scope("a"):
        first = asyncio.create_task(seen())
    with request_scope("b"):
        second = asyncio.create_task(seen())
    assert (await first, await second, current_request_id()) == ("a", "b", None)


def test_a_line_carries_the_trace_of_the_request_it_names_or_of_the_task() -> None:
    note_trace("r-2", f"00-{'a' * 32}-{'b' * 16}-01")
    with request_scope("r-1", "c" * 32):
        own, named = (json.loads(JsonFormatter().format(record(**fields))) for fields in ({}, {"request_id": "r-2"}))
    for number in range(5000):
        note_trace(f"other-{number}", f"00-{'d' * 32}-{'b' * 16}-01")
    assert (own["request_id"], own["trace_id"]) == ("r-1", "c" * 32)
    assert (named["request_id"], named["trace_id"]) == ("r-2", "a" * 32)
    assert "trace_id" not in json.loads(JsonFormatter().format(record(request_id="r-2")))


@pytest.mark.parametrize("formatter", [JsonFormatter, ConsoleFormatter])
@pytest.mark.parametrize(
    "secret",
    [
        "Authorization: Bearer abcdef123456",
        "redis://ann:hunter2abcdef@queue:6379/0",
        "api_key=abcdef123456",
        'password": "abcdef123456"',
        "sk-abcdef123456",
        "of-the-operator",
    ],
)
def test_no_line_shows_a_secret(formatter: type[JsonFormatter], secret: str) -> None:
    shown = formatter(Redaction(["of-the-operator"]))
    made = record(f"failed with {secret}", error=secret, nested={"deep": [secret]}, api_key="zzzz")
    try:
        raise ValueError(secret)
    except ValueError:
        made.exc_info = sys.exc_info()
    line = shown.format(made)
    assert not any(part in line for part in ("abcdef", "of-the-operator", "zzzz"))
    assert HIDDEN in line
    if formatter is JsonFormatter:
        assert json.loads(line)["error"] != secret


def test_numbers_and_ordinary_words_stay_as_they_are() -> None:
    fields = {"max_tokens": 1000, "token": "word", "ratio": 0.5, "ready": True, "nothing": None}
    line = json.loads(JsonFormatter().format(record("tokens: 12345 left", **fields)))
    assert {name: line[name] for name in fields} == fields
    assert line["message"] == "tokens: 12345 left"


def test_a_warning_that_repeats_itself_is_left_out_for_a_while_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(repeats, "mono_s", lambda: now)
    limit = repeats.RepeatLimit()

    def passes(message: str, level: int = logging.WARNING) -> logging.LogRecord | None:
        made = logging.getLogger("x").makeRecord("x", level, "f", 1, message, (), None)
        return made if limit.filter(made) else None

    assert [passes("away") is not None for _ in range(25)] == [True] * 10 + [False] * 15
    assert passes("another") is not None
    assert all(passes("news", logging.INFO) for _ in range(50))
    now = 111.0
    again = passes("away")
    assert again is not None
    assert again.left_out == 15  # type: ignore[attr-defined]
    assert not hasattr(passes("away"), "left_out")
