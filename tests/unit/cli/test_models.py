"""What MODEL may be, and what is said when it is nothing of that."""

from pathlib import Path

import pytest

from headrace_cli.errors import CliError
from headrace_cli.models import resolve
from headrace_cli.terminal import Terminal


@pytest.mark.parametrize("model", ["gpt2", "Qwen/Qwen3-0.6B", "meta-llama/Llama-3.1_8B"])
def test_a_hugging_face_id_is_left_to_the_worker(model: str) -> None:
    assert resolve(model, Terminal()) == model


def test_a_directory_with_a_config_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert resolve("m", Terminal()) == str(tmp_path / "m")


def test_a_gguf_file_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF\x03\0\0\0")
    assert resolve(str(tmp_path / "m.gguf"), Terminal()) == str(tmp_path / "m.gguf")


def refusal(model: str) -> str:
    with pytest.raises(CliError) as caught:
        resolve(model, Terminal())
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    "model", ["/no/such/place", "./nowhere", "../nowhere", "~/no-such-folder-here", "weights.gguf"]
)
def test_a_path_that_is_not_there_is_named(model: str) -> None:
    assert refusal(model) == f"no such file or directory: {model}"


def test_a_directory_without_a_config_is_refused(tmp_path: Path) -> None:
    assert refusal(str(tmp_path)) == f"{tmp_path} is not a model directory: it has no config.json"


def test_a_directory_of_gguf_files_leads_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert refusal(str(tmp_path)).endswith(f"to serve its GGUF file, pass {tmp_path / 'm.gguf'}")


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"\0" * 16)
    assert "is not a GGUF file" in refusal(str(tmp_path / "m.safetensors"))


@pytest.mark.parametrize("model", ["", "a b", "a/b/c", "-x", "ümlaut/model"])
def test_what_can_be_neither_path_nor_id_is_refused(model: str) -> None:
    assert "neither a path that exists nor a Hugging Face id" in refusal(model)
