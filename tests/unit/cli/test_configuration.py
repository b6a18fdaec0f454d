"""Options from a file, from the environment and from the command line, and who wins."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from headrace_cli import config_file, configuration, flags
from headrace_cli.configuration import Setting
from headrace_cli.errors import CliError
from headrace_cli.main import app


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith(("HEADRACE_", "VLLM_")):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "headrace.yaml"


def texts(path: Path) -> dict[str, str]:
    return {entry.variable: entry.text for entry in config_file.read(path)}


def show(*words: str) -> Result:
    return CliRunner().invoke(app, ["config", "show", *words])


def shown(*words: str) -> dict[str, tuple[object, str]]:
    result = show("--format", "json", *words)
    assert result.exit_code == 0, result.exception
    return {row["variable"]: (row["value"], row["source"]) for row in json.loads(result.stdout)}


def test_options_are_called_by_their_long_names(file: Path) -> None:
    file.write_text(
        """
model: small
max_model-len: 32k
served_model_name: [a, b]
middleware: one.two
hf-overrides: {rope_theta: 5, deep: [1, {x: null}]}
allowed-origins: ["https://a.example"]
trust-remote-code: true
disable-log-requests: true
no-enable-prefix-caching: true
revision: 2024-05-01
api-key: ["x,y", 0123]
dtype: bfloat16
gpu-memory-utilization: 0.5
port:
"""
    )
    assert texts(file) == {
        "HEADRACE_WORKER_MODEL": "small",
        "HEADRACE_WORKER_MAX_MODEL_LEN": "32k",
        "HEADRACE_WORKER_SERVED_MODEL_NAME": "a,b",
        "HEADRACE_API_MIDDLEWARE": "one.two",
        "HEADRACE_WORKER_HF_OVERRIDES": '{"rope_theta": 5, "deep": [1, {"x": null}]}',
        "HEADRACE_API_ALLOWED_ORIGINS": '["https://a.example"]',
        "HEADRACE_WORKER_TRUST_REMOTE_CODE": "true",
        "HEADRACE_API_ENABLE_LOG_REQUESTS": "false",
        "HEADRACE_WORKER_ENABLE_PREFIX_CACHING": "false",
        "HEADRACE_WORKER_REVISION": "2024-05-01",
        "HEADRACE_API_KEYS": '["x,y", "0123"]',
        "HEADRACE_WORKER_DTYPE": "bfloat16",
        "HEADRACE_WORKER_GPU_MEMORY_UTILIZATION": "0.5",
    }


def test_a_process_has_a_section_of_its_own_that_goes_before_the_top(file: Path) -> None:
    file.write_text(
        """
api: {port: 1, log-level: debug, keys: [a]}
worker: {threads: 2}
queue: {max-requests: 3, replay-ttl: 4}
redis: {url: "redis://r:1/0", max-connections: 5}
port: 9
log-level: error
"""
    )
    assert texts(file) == {
        "HEADRACE_API_PORT": "1",
        "HEADRACE_API_LOG_LEVEL": "debug",
        "HEADRACE_WORKER_LOG_LEVEL": "error",
        "HEADRACE_API_KEYS": "a",
        "HEADRACE_WORKER_THREADS": "2",
        "HEADRACE_QUEUE_MAX_REQUESTS": "3",
        "HEADRACE_QUEUE_REPLAY_TTL_S": "4",
        "HEADRACE_REDIS_URL": "redis://r:1/0",
        "HEADRACE_REDIS_MAX_CONNECTIONS": "5",
    }


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_file_says_nothing(file: Path, text: str) -> None:
    file.write_text(text)
    assert texts(file) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("port: 1\nprot: 2\n", ":2: there is no option prot; did you mean port?"),
        ("api:\n  host: a\n  max-num-seqs: 1\n", ":3: there is no option max-num-seqs"),
        ("wroker: {}\n", ":1: there is no option wroker; did you mean worker?"),
        ("- port\n", ":1: should hold options by their names"),
        ("api: [1]\n", ":1: api: should hold options"),
        ("port: 1\nPort: 2\n", ":2: there is no option Port"),
        ("max-log-len: 1\nmax_log_len: 2\n", ":2: max-log-len is set a second time"),
        ("port: many\n", ":1: port should be a whole number, got many"),
        ("rope-theta: x\n", ":1: rope-theta should be a number, got x"),
        ("trust-remote-code: 1\n", ":1: trust-remote-code should be true or false, got 1"),
        ("dtype: int4\n", ":1: dtype should be one of auto, float32"),
        ("hf-overrides: [1]\n", ":1: hf-overrides should be an object"),
        ("api-key: {a: 1}\n", ":1: api-key should be a text or a list of texts"),
        ("x: [\n", "is not YAML"),
        ("a: !!python/object:os.system x\n", ":1: there is no option a"),
        ("cpu_offload_gb: 4\n", ":1: --cpu-offload-gb 4: weights"),
        ("enable-lora: true\n", ":1: --enable-lora: adapters"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_line(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(CliError) as error:
        config_file.read(file)
    assert error.value.message.startswith(str(file))
    assert said in error.value.message
    assert error.value.exit_code == 2


def test_a_file_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(CliError, match="No such file"):
        config_file.read(file)


def test_values_that_ask_for_nothing_are_accepted_in_a_file(file: Path) -> None:
    file.write_text("cpu-offload-gb: 0\nenable-lora: false\ntask: generate\n")
    assert texts(file) == {}


def test_the_command_line_goes_before_the_environment_before_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("port: 1\nhost: file\nroot-path: /file\nthreads: 3\n")
    monkeypatch.setenv("HEADRACE_API_PORT", "2")
    monkeypatch.setenv("HEADRACE_API_HOST", "variable")
    found = configuration.configured(flags.API_FLAGS, {"config": str(file), "port": 3})
    assert found == {
        "HEADRACE_API_PORT": Setting("3", "--port"),
        "HEADRACE_API_HOST": Setting("variable", "HEADRACE_API_HOST"),
        "HEADRACE_API_ROOT_PATH": Setting("/file", f"{file}:3"),
    }


def test_the_file_may_be_named_by_a_variable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("port: 1\n")
    monkeypatch.setenv("HEADRACE_CONFIG", str(file))
    assert configuration.configured(flags.API_FLAGS, {}) == {"HEADRACE_API_PORT": Setting("1", f"{file}:1")}


def test_another_servers_variable_holds_the_key_where_ours_does_not(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("api-key: file\n")
    monkeypatch.setenv("VLLM_API_KEY", "theirs")
    given = {"config": str(file)}
    assert configuration.configured(flags.API_FLAGS, given)["HEADRACE_API_KEYS"] == Setting("theirs", "VLLM_API_KEY")
    monkeypatch.setenv("HEADRACE_API_KEYS", "ours")
    found = configuration.configured(flags.API_FLAGS, given)["HEADRACE_API_KEYS"]
    assert found == Setting("ours", "HEADRACE_API_KEYS")


@pytest.mark.parametrize("command", ["api", "worker"])
def test_one_file_serves_every_process(file: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    became: dict[str, str] = {}
    monkeypatch.setattr("headrace_cli.servers.become", lambda _, variables: became.update(variables))
    file.write_text("model: m\nengine: simulated\nport: 1\nredis: {url: 'redis://r:1/0'}\n")
    assert CliRunner().invoke(app, [command, "--config", str(file)]).exit_code == 0
    own = (
        {"HEADRACE_API_PORT": "1"}
        if command == "api"
        else {"HEADRACE_WORKER_MODEL": "m", "HEADRACE_WORKER_ENGINE": "simulated"}
    )
    assert became == {"HEADRACE_REDIS_URL": "redis://r:1/0", **own}


def test_every_setting_is_shown_with_its_source(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("max-model-len: 32k\napi:\n  log-level: debug\n")
    monkeypatch.setenv("HEADRACE_API_HOST", "h")
    rows = shown("small", "--config", str(file), "--port", "7")
    assert rows["HEADRACE_WORKER_MODEL"] == ("small", "--model")
    assert rows["HEADRACE_API_PORT"] == (7, "--port")
    assert rows["HEADRACE_API_HOST"] == ("h", "HEADRACE_API_HOST")
    assert rows["HEADRACE_WORKER_MAX_MODEL_LEN"] == (32000, f"{file}:1")
    assert rows["HEADRACE_API_LOG_LEVEL"] == ("debug", f"{file}:3")
    assert rows["HEADRACE_WORKER_LOG_LEVEL"] == ("info", "default")
    wanted = {variable for flag in flags.ALL_FLAGS for variable in flag.variables}
    assert {variable for variable in wanted if variable.startswith("HEADRACE")} - set(rows) == set()


def test_secrets_are_masked(file: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text('{"ann": {"key": "hush-1"}}')
    file.write_text(f"api-key: hush-2\napi-keys-file: {keys}\nredis: {{url: 'rediss://u:hush-3@h:6379/0'}}\n")
    for shape in ("json", "yaml", "table"):
        output = show("--config", str(file), "--format", shape).stdout
        assert "hush" not in output
        assert "rediss://u:**********@h:6379/0" in output


def test_what_is_shown_as_yaml_is_a_file_again(file: Path) -> None:
    file.write_text("max-model-len: 4096\nserved-model-name: [a, b]\nworker: {log-level: error}\nport: 7\n")
    copy = file.with_name("copy.yaml")
    copy.write_text(show("--config", str(file), "--format", "yaml").stdout)
    assert {**texts(copy), "HEADRACE_WORKER_MODEL": ""} == {**texts(file), "HEADRACE_WORKER_MODEL": ""}


def test_a_value_that_a_server_would_refuse_is_refused_with_its_source(file: Path) -> None:
    file.write_text("port: 99999\n")
    result = show("--config", str(file), "--block-size", "0")
    assert isinstance(result.exception, CliError)
    assert f"{file}:1: HEADRACE_API_PORT: Input should be less than" in result.exception.message
    assert "--block-size: HEADRACE_WORKER_BLOCK_SIZE: Input should be greater than" in result.exception.message


def test_a_misspelt_variable_is_told_with_the_nearest_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADRACE_API_PROT", "1")
    monkeypatch.setenv("HEADRACE_API_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("HEADRACE_API_PORT_80_TCP_ADDR", "10.0.0.1")
    monkeypatch.setenv("HEADRACE_WORKER_THREADS", "1")
    configuration.configured(flags.API_FLAGS, {})
    told = capsys.readouterr().err
    assert told == "headrace: warning: HEADRACE_API_PROT is not a setting; did you mean HEADRACE_API_PORT?\n"
