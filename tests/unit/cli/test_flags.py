"""The command line's options against the servers' settings classes, which the command line may not import."""

import typing

import pytest
from pydantic import AliasChoices
from pydantic_settings import BaseSettings
from typer.testing import CliRunner

from headrace_api.settings import ApiSettings
from headrace_cli import flags
from headrace_cli.flag import Flag, variables
from headrace_cli.main import app
from headrace_shared.settings import QueueSettings, RedisSettings, TracingSettings
from headrace_worker.settings import WorkerSettings

SETTINGS: list[type[BaseSettings]] = [ApiSettings, QueueSettings, WorkerSettings, RedisSettings]
ALL_FLAGS = flags.ALL_FLAGS


def variable_names(settings: type[BaseSettings]) -> set[str]:
    names = set()
    for name, field in settings.model_fields.items():
        alias = field.validation_alias
        names |= {str(a) for a in alias.choices} if isinstance(alias, AliasChoices) else set()
        names.add(f"{settings.model_config['env_prefix']}{name.upper()}")
    return names


@pytest.mark.parametrize("flag", ALL_FLAGS, ids=lambda flag: flag.name)
def test_every_flag_sets_a_setting_that_exists(flag: Flag) -> None:
    known = set().union(*map(variable_names, [*SETTINGS, TracingSettings]))
    assert set(flag.variables) <= known


def test_every_setting_has_a_flag() -> None:
    carried = {variable for flag in ALL_FLAGS for variable in flag.variables}
    fields = {
        f"{settings.model_config['env_prefix']}{name.upper()}": field
        for settings in SETTINGS
        for name, field in settings.model_fields.items()
    }
    without = {
        variable
        for variable, field in fields.items()
        if not carried
        & {variable, *(field.validation_alias.choices if isinstance(field.validation_alias, AliasChoices) else ())}
    }
    assert without == set()


@pytest.mark.parametrize(
    "flag", [f for f in ALL_FLAGS if typing.get_origin(f.kind) is typing.Literal], ids=lambda f: f.name
)
def test_a_flag_offers_just_the_choices_that_the_setting_takes(flag: Flag) -> None:
    for settings in (ApiSettings, WorkerSettings):
        for name, field in settings.model_fields.items():
            if f"{settings.model_config['env_prefix']}{name.upper()}" in flag.variables:
                assert choices(field.annotation) == set(typing.get_args(flag.kind))


def choices(annotation: object) -> set[object]:
    """Of a Literal, or of the one in a union with None."""
    if typing.get_origin(annotation) is typing.Literal:
        return set(typing.get_args(annotation))
    return set().union(*map(choices, typing.get_args(annotation)))


def test_only_what_was_given_reaches_the_servers() -> None:
    given = {"port": 0, "api_key": ["a", "b"], "trust_remote_code": False, "dtype": None, "host": None}
    assert variables(ALL_FLAGS, given) == {
        "HEADRACE_API_PORT": "0",
        "HEADRACE_API_KEYS": "a,b",
        "HEADRACE_WORKER_TRUST_REMOTE_CODE": "false",
    }


@pytest.mark.parametrize("spelling", ["--grace", "--shutdown-grace-s"])
def test_an_option_may_be_given_by_either_of_its_names(spelling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    became: dict[str, str] = {}
    monkeypatch.setattr("headrace_cli.servers.become", lambda _, variables: became.update(variables))
    assert CliRunner().invoke(app, ["api", spelling, "7", "--priority-aging", "60000"]).exit_code == 0
    assert became == {"HEADRACE_API_SHUTDOWN_GRACE_S": "7", "HEADRACE_QUEUE_AGING_MS": "60000"}


def test_a_key_with_a_comma_stays_one_key() -> None:
    carried = variables(ALL_FLAGS, {"api_key": ["a,b", "c"]})
    keys = ApiSettings(api_keys=carried["HEADRACE_API_KEYS"]).api_keys  # type: ignore[arg-type]
    assert [key.get_secret_value() for key in keys] == ["a,b", "c"]


def test_an_option_not_given_leaves_the_exported_variable_alone() -> None:
    assert variables(ALL_FLAGS, {flag.keyword: None for flag in ALL_FLAGS} | {"api_key": []}) == {}


@pytest.mark.parametrize("command", ["serve", "api", "worker", "chat", "bench"])
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"])
    assert shown.exit_code == 0
    assert f"headrace {command}" in shown.output.split("Example")[1]


def test_the_version_is_the_installed_one() -> None:
    shown = CliRunner().invoke(app, ["--version"])
    assert (shown.exit_code, shown.output) == (0, "headrace 0.1.0\n")
