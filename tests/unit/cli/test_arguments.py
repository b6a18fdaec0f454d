"""Command lines as users of other servers write them."""

import pytest
from typer.testing import CliRunner, Result

from headrace_cli import flags
from headrace_cli.errors import CliError
from headrace_cli.flag import Flag
from headrace_cli.foreign_flags import FOREIGN_FLAGS, SHORT, ForeignFlag
from headrace_cli.main import app

OURS = {name for flag in flags.SERVE_FLAGS for name in (flag.name, *flag.also, *flag.negatives)}


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of the server that a command turned into."""
    found: dict[str, str] = {}
    monkeypatch.setattr("headrace_cli.servers.become", lambda _, variables: found.update(variables))
    return found


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def refused(*words: str) -> str:
    result = run(*words)
    assert isinstance(result.exception, CliError), result.output
    assert result.exception.exit_code == 2
    return result.exception.message


@pytest.mark.parametrize("words", [["--max_num_seqs", "7"], ["--max_num-seqs=7"], ["--max-num-seqs", "7"]])
def test_dashes_and_underlines_are_the_same_in_names(became: dict[str, str], words: list[str]) -> None:
    assert run("worker", "m_1", "--engine", "simulated", *words).exit_code == 0
    assert became["HEADRACE_WORKER_MAX_NUM_SEQS"] == "7"
    assert became["HEADRACE_WORKER_MODEL"] == "m_1"


def test_a_value_that_looks_like_an_option_stays_as_it_is(became: dict[str, str]) -> None:
    assert run("api", "--api-key", "--swap_space", "--root_path", "/a_b").exit_code == 0
    assert became == {"HEADRACE_API_KEYS": "--swap_space", "HEADRACE_API_ROOT_PATH": "/a_b"}


def test_several_values_may_follow_one_option(became: dict[str, str]) -> None:
    assert run("worker", "m", "--engine", "simulated", "--served-model-name", "a", "b", "--seed", "x").exit_code != 0
    assert run("worker", "m", "--engine", "simulated", "--served-model-name", "a", "b", "--threads", "2").exit_code == 0
    assert became["HEADRACE_WORKER_SERVED_MODEL_NAME"] == "a,b"
    assert run("api", "--api_key", "one", "two").exit_code == 0
    assert became["HEADRACE_API_KEYS"] == "one,two"


def test_the_model_may_come_after_an_option_with_several_values(became: dict[str, str]) -> None:
    assert run("worker", "--engine", "simulated", "--served-model-name", "a", "m").exit_code == 0
    assert became["HEADRACE_WORKER_MODEL"] == "m"


def test_the_model_may_be_an_option(became: dict[str, str]) -> None:
    assert run("worker", "--engine", "simulated", "--model", "m").exit_code == 0
    assert became["HEADRACE_WORKER_MODEL"] == "m"
    assert refused("worker", "--model", "m", "other") == "MODEL is other, and --model is m"
    assert "needs a MODEL" in refused("worker", "--engine", "simulated")


@pytest.mark.parametrize("command", ["serve", "api", "worker"])
@pytest.mark.parametrize(
    "flag", [flag for flag in FOREIGN_FLAGS if not flag.harmless], ids=lambda flag: f"--{flag.name}"
)
def test_an_option_that_cannot_be_honoured_is_refused_with_the_reason(flag: ForeignFlag, command: str) -> None:
    asked = [f"--{flag.name}"] if flag.is_switch else [f"--{flag.name}", "beyond"]
    message = refused(command, *asked)
    assert message.startswith(f"--{flag.name}")
    assert flag.why in message
    assert "\n" not in message


@pytest.mark.parametrize("flag", [flag for flag in FOREIGN_FLAGS if flag.harmless], ids=lambda flag: f"--{flag.name}")
def test_an_option_without_effect_is_accepted_and_told(flag: ForeignFlag, became: dict[str, str]) -> None:
    result = run("api", f"--{flag.name}", "--port", "7")
    assert became == {"HEADRACE_API_PORT": "7"}
    assert f"--{flag.name} has no effect: {flag.why}" in result.stderr


@pytest.mark.parametrize("flag", [flag for flag in FOREIGN_FLAGS if flag.off], ids=lambda flag: f"--{flag.name}")
def test_a_value_that_asks_for_nothing_is_accepted(flag: ForeignFlag, became: dict[str, str]) -> None:
    for value in flag.off:
        result = run("api", f"--{flag.name.replace('-', '_')}", value, f"--{flag.name}={value}", "--port", "7")
        assert (result.output, became) == ("", {"HEADRACE_API_PORT": "7"})


def test_switching_off_what_is_not_there_asks_for_nothing(became: dict[str, str]) -> None:
    result = run("api", "--no-enable-lora", "--port", "7")
    assert (result.output, became) == ("", {"HEADRACE_API_PORT": "7"})


@pytest.mark.parametrize(("short", "long"), SHORT.items())
def test_short_names_are_known(short: str, long: str) -> None:
    if long not in OURS:
        assert refused("serve", short, "7").startswith(f"--{long}")
        assert refused("serve", f"{short}7").startswith(f"--{long}")


def test_a_short_name_may_be_one_of_ours(became: dict[str, str]) -> None:
    result = run("worker", "m", "-q", "int8")
    assert (result.output, became) == ("", {"HEADRACE_WORKER_MODEL": "m", "HEADRACE_WORKER_QUANTIZATION": "int8"})


def test_a_model_is_split_by_the_short_name_that_is_known_from_elsewhere(became: dict[str, str]) -> None:
    result = run("worker", "m", "-tp", "2")
    assert (result.output, became) == ("", {"HEADRACE_WORKER_MODEL": "m", "HEADRACE_WORKER_TENSOR_PARALLEL_SIZE": "2"})


def test_an_unknown_quantization_is_told_the_known_ones() -> None:
    result = run("serve", "--quantization", "awq")
    assert result.exit_code == 2
    assert "'--quantization': Value error, 'awq' is not one of 'none', 'int8', 'int4'" in result.output


def test_a_cache_format_of_vllm_that_there_is_not_is_told_those_that_there_are() -> None:
    result = run("worker", "m", "--kv-cache-dtype", "fp8_e5m2")
    assert result.exit_code == 2
    assert "'fp8_e5m2' is not one of 'auto', 'int8', 'fp8', 'fp8_e4m3'" in result.output


def test_no_option_is_both_honoured_and_refused() -> None:
    assert OURS & {flag.name for flag in FOREIGN_FLAGS} == set()


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["serve", "--max-model-length", "7"], "--max-model-len"),
        (["api", "--prot", "7"], "--port"),
        (["worker", "m", "--max_num_seq", "7"], "--max-num-seqs"),
        (["config", "show", "--prot", "7"], "--port"),
        (["bench", "--input_token", "7"], "--input-tokens"),
        (["chat", "--max_token", "7"], "--max-tokens"),
        (["dlq", "list", "--modell", "7"], "--model"),
    ],
)
def test_a_misspelt_option_gets_the_nearest_name(words: list[str], near: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert near in result.output


@pytest.mark.parametrize(
    ("flag", "text"), [("hf-overrides", "{"), ("hf-overrides", "[1]"), ("tenant-weights", "x"), ("rope-scaling", "3")]
)
def test_an_option_that_is_to_be_an_object_is_checked_at_once(flag: str, text: str) -> None:
    result = run("serve", f"--{flag}", text)
    assert result.exit_code == 2
    assert f"'--{flag}'" in result.output
    assert "JSON" in result.output


@pytest.mark.parametrize("flag", [flag for flag in flags.ALL_FLAGS if flag.kind is bool], ids=lambda flag: flag.name)
def test_every_switch_has_both_its_own_negative_and_the_usual_one(flag: Flag, became: dict[str, str]) -> None:
    is_of_worker = flag.variables[0].startswith("HEADRACE_WORKER")
    command = ["worker", "m", "--engine", "simulated"] if is_of_worker else ["api"]
    for name in flag.negatives:
        assert run(*command, f"--{name}").exit_code == 0
        assert became.pop(flag.variables[0]) == "false"
    assert f"no-{flag.name}" in flag.negatives
