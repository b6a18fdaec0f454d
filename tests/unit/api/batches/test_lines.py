"""The lines of an input, however they arrive, and what is wrong with them."""

import json
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_api.batches.lines import InputCheck, Line, raw_lines, read_line

CHAT = "/v1/chat/completions"
GOOD = {"custom_id": "a", "method": "POST", "url": CHAT, "body": {"model": "m"}}


async def cut(text: bytes, at: list[int]) -> AsyncIterator[bytes]:
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in at)})
    for start, end in pairwise(edges):
        yield text[start:end]


@given(st.lists(st.sampled_from([b"", b" ", b"a", b"bcd", b"x" * 9])), st.lists(st.integers(0, 200)))
async def test_lines_are_the_same_however_they_are_cut(lines: list[bytes], at: list[int]) -> None:
    text = b"\n".join(lines)
    found = [each async for each in raw_lines(cut(text, at), longest=8)]
    assert found == [(n, line[:9].strip()) for n, line in enumerate(lines) if line.strip()]


async def test_carriage_returns_and_a_missing_last_newline_make_no_difference() -> None:
    found = [each async for each in raw_lines(cut(b"{1}\r\n\r\n{2}", []), longest=8)]
    assert found == [(0, b"{1}"), (2, b"{2}")]


def checked(*lines: object, most_items: int = 10, longest: int = 500) -> list[tuple[int | None, str, str | None]]:
    check = InputCheck(CHAT, longest, most_items)
    for number, line in enumerate(lines):
        check.feed(number, line if isinstance(line, bytes) else json.dumps(line).encode())
    return [(problem.line, problem.code, problem.param) for problem in check.finish()]


def test_what_is_right_has_no_problem() -> None:
    assert checked(GOOD, GOOD | {"custom_id": "b", "more": 1}) == []


@pytest.mark.parametrize(
    ("line", "code", "param"),
    [
        (b"nonsense", "invalid_json_line", None),
        (b"[1]", "invalid_json_line", None),
        (
            b'{"custom_id": "\xff", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m"}}',
            "invalid_custom_id",
            "custom_id",
        ),
        ({**GOOD, "custom_id": 7}, "invalid_custom_id", "custom_id"),
        ({**GOOD, "custom_id": ""}, "invalid_custom_id", "custom_id"),
        ({**GOOD, "custom_id": "x" * 513}, "line_too_long", None),
        ({**GOOD, "method": "GET"}, "invalid_method", "method"),
        ({**GOOD, "method": None}, "invalid_method", "method"),
        ({**GOOD, "url": "/v1/completions"}, "mismatched_endpoint", "url"),
        ({**GOOD, "body": [1]}, "invalid_body", "body"),
        ({**GOOD, "body": {"model": 3}}, "invalid_body", "body.model"),
        ({name: GOOD[name] for name in ("custom_id", "method", "url")}, "missing_required_parameter", "body"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(line: object, code: str, param: str | None) -> None:
    other = GOOD | {"custom_id": "other"}
    assert checked(other, line) == [(2, code, param)]


def test_ids_are_unique_and_models_the_same() -> None:
    assert checked(GOOD, GOOD) == [(2, "duplicate_custom_id", "custom_id")]
    other = {**GOOD, "custom_id": "b", "body": {"model": "n"}}
    unnamed = {**GOOD, "custom_id": "c", "body": {}}
    assert checked(GOOD, other, unnamed) == [
        (2, "mismatched_model", "body.model"),
        (3, "mismatched_model", "body.model"),
    ]


def test_an_input_is_neither_empty_nor_too_long() -> None:
    assert checked() == [(None, "empty_file", None)]
    assert checked(GOOD, GOOD, GOOD, most_items=2) == [(None, "too_many_tasks", None)]


def test_no_more_than_a_hundred_problems_are_told() -> None:
    assert len(checked(*[b"x"] * 500, most_items=500)) == 100


def test_a_line_is_read_with_its_body_as_it_is_written() -> None:
    raw = b'{"custom_id":"\\u00e9","method":"POST","url":"/x","body":{"a":  1.0}}'
    assert read_line(3, raw) == Line(3, "é", b'{"a":  1.0}')
