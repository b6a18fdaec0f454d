import asyncio
import json
import logging
import sys

import pytest

from headrace_shared.telemetry.context import current_request_id, request_scope
from headrace_shared.telemetry.logs import ConsoleFormatter, JsonFormatter


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
