"""A worker that cannot start says why in one line, and exits with the status that means: do not try again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def start(**settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    environment |= {f"HEADRACE_{name.upper()}": value for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-P", "-m", "headrace_worker"],
        env={"HEADRACE_REDIS_URL": "redis://127.0.0.1:1/0", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if "headrace worker: error:" in line]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def test_no_model_is_an_error_that_names_the_setting() -> None:
    assert "model" in error_line(start())


def test_a_size_that_is_none_is_an_error_that_says_what_is_allowed() -> None:
    line = error_line(start(worker_model="x", worker_kv_cache_memory="lots"))
    assert "kv_cache_memory" in line
    assert "2GiB" in line


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("device", "tpu", "there is no support for 'tpu'"),
        ("hf_overrides", "{", "is not JSON"),
        ("override_generation_config", '{"colour": 1}', "override_generation_config_colour"),
        ("max_model_len", "long", "must be a number of tokens"),
        ("load_format", "tensorizer", "'auto', 'safetensors', 'pt', 'gguf' or 'dummy'"),
        ("guided_decoding_backend", "x", "'auto', 'xgrammar', 'guidance', 'outlines' or 'lm-format-enforcer'"),
    ],
)
def test_a_setting_that_cannot_be_kept_is_an_error_that_names_it(setting: str, value: str, said: str) -> None:
    line = error_line(start(worker_model="x", **{f"worker_{setting}": value}))
    assert f"error: {setting}" in line
    assert said in line


def test_a_redis_address_of_another_kind_is_an_error_that_names_the_allowed_ones() -> None:
    assert "redis://" in error_line(start(worker_model="x", redis_url="http://localhost"))


@pytest.mark.parametrize("files", [{}, {"config.json": "{"}, {"config.json": json.dumps({"model_type": "no-such"})}])
def test_a_broken_model_directory_is_an_error_that_names_it(tmp_path: Path, files: dict[str, str]) -> None:
    model = tmp_path / "broken-model"
    model.mkdir()
    for name, text in files.items():
        (model / name).write_text(text)
    assert str(model) in error_line(start(worker_model=str(model)))


def test_a_missing_model_directory_is_an_error_that_names_it(tmp_path: Path) -> None:
    assert "nowhere" in error_line(start(worker_model=str(tmp_path / "nowhere")))


def test_an_architecture_that_cannot_be_served_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "architectures": ["T5Model"]}))
    assert "encoder-decoder" in error_line(start(worker_model=str(tmp_path)))


def test_limits_that_contradict_each_other_are_refused() -> None:
    line = error_line(start(worker_model="simulated", worker_engine="simulated", worker_max_num_batched_tokens="8"))
    assert "max_num_batched_tokens" in line


def test_a_parser_that_nobody_knows_is_refused_with_those_that_there_are() -> None:
    line = error_line(start(worker_model="simulated", worker_engine="simulated", worker_tool_call_parser="hermes2"))
    assert "no tool parser 'hermes2' here, only " in line
    assert ", mistral, " in line


def test_calls_that_nobody_can_read_cannot_be_switched_on() -> None:
    settings = {"worker_engine": "simulated", "worker_enable_auto_tool_choice": "true"}
    assert "--tool-call-parser" in error_line(start(worker_model="simulated", **settings))
