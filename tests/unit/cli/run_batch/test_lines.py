"""What a line of a batch's input asks for, or what is wrong with it."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_cli.run_batch import lines as lines_module
from headrace_cli.run_batch.lines import Line, Lines

GOOD = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}


def read(folder: Path, *entries: object) -> list[Line]:
    file = folder / "in.jsonl"
    file.write_text("".join(f"{entry if isinstance(entry, str) else json.dumps(entry)}\n" for entry in entries))
    return list(Lines(file))


def test_a_good_line_is_what_it_says(tmp_path: Path) -> None:
    (line,) = read(tmp_path, GOOD)
    assert (line.number, line.custom_id, line.url, line.body, line.problem) == (
        1,
        "a",
        "/v1/completions",
        {"prompt": "x"},
        None,
    )


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("{", "is not JSON"),
        ("\xff", "is not JSON"),
        ([1], "should be an object with custom_id"),
        ({**GOOD, "custom_id": 7}, "custom_id: should be a text"),
        ({**GOOD, "custom_id": ""}, "custom_id: should be a text"),
        ({**GOOD, "method": "GET"}, "method: should be POST"),
        ({**GOOD, "url": "/v1/embeddings"}, "url: should be one of /v1/chat/completions, /v1/chat/completions/batch"),
        ({**GOOD, "url": ["/v1/completions"]}, "url: should be one of"),
        ({**GOOD, "body": "x"}, "body: should be an object"),
        ({**GOOD, "body": {"stream": True}}, "body.stream: has to be left out"),
        ({**GOOD, "body": {"background": True}}, "body.background: has to be left out"),
        ({**GOOD, "extra": 1}, "extra: is not a field"),
    ],
)
def test_a_bad_line_is_told_with_its_number(tmp_path: Path, entry: object, words: str) -> None:
    _, line, after = read(tmp_path, {**GOOD, "custom_id": "0"}, entry, {**GOOD, "custom_id": "2"})
    assert line.problem is not None
    assert line.problem.startswith("line 2: ")
    assert words in line.problem
    assert after.problem is None


def test_everything_that_is_wrong_is_told_together(tmp_path: Path) -> None:
    (line,) = read(tmp_path, {"custom_id": "a"})
    assert line.problem is not None
    assert all(f"{name}: " in line.problem for name in ("method", "url", "body"))
    assert line.custom_id == "a"


def test_the_first_of_two_with_one_custom_id_has_it(tmp_path: Path) -> None:
    first, second, other = read(tmp_path, GOOD, {**GOOD, "url": "/v1/responses"}, {**GOOD, "custom_id": "b"})
    assert (first.problem, other.problem) == (None, None)
    assert second.custom_id is None
    assert second.problem == "line 2: custom_id 'a' is that of line 1"


def test_a_line_that_is_too_long_is_passed_over_without_being_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_module, "MAX_LINE_BYTES", 200)
    long = {**GOOD, "body": {"prompt": "x" * 1000}}
    before, too_long, after = read(tmp_path, GOOD, long, {**GOOD, "custom_id": "b"})
    assert (before.problem, after.number, after.problem) == (None, 3, None)
    assert too_long.problem == "line 2: is longer than 200 bytes"
    other_end = {**GOOD, "body": {"prompt": "x" * 999 + "y"}}
    assert read(tmp_path, GOOD, other_end)[1].digest != too_long.digest


@given(st.lists(st.one_of(st.text(max_size=20), st.sampled_from([json.dumps(GOOD), "", "  ", "{}"])), max_size=12))
def test_a_file_reads_the_same_every_time_with_a_digest_of_its_own_for_every_line(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    file = tmp_path_factory.mktemp("lines") / "in.jsonl"
    file.write_text("\n".join(texts), "utf-8", "surrogatepass", newline="")
    lines = Lines(file)
    first, again = list(lines), list(Lines(file))
    assert first == again
    assert len({line.digest for line in first}) == len(first) == len(lines)
    assert sum(line.problem is None for line in first) == (
        json.dumps(GOOD) in [t for text in texts for t in text.split("\n")]
    )
