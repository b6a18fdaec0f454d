"""``headrace config show``: the settings that ``headrace serve`` would run with, and who said so."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import typer

from headrace_cli import configuration, flags, servers
from headrace_cli.arguments import ServerCommand
from headrace_cli.configuration import Setting
from headrace_cli.errors import EXIT_CONFIGURATION, CliError
from headrace_cli.flag import Flag, accepts

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at the configuration.")

_CLASSES = {
    "headrace_shared": "headrace_shared.settings:RedisSettings headrace_shared.settings:QueueSettings",
    servers.API: "headrace_api.settings:ApiSettings",
    servers.WORKER: "headrace_worker.settings:WorkerSettings",
}
"""The servers are asked for their settings in processes of their own, as their code is not to be loaded here."""
_DEFAULT_MODEL = "the demo model"
_WIDEST_COLUMN = 48


@dataclass(frozen=True)
class Row:
    """One setting. ``source``: an option, a variable, ``file:line`` or ``default``."""

    setting: str
    value: Any
    source: str
    variable: str


@app.command(cls=ServerCommand)
@accepts(*flags.SERVE_FLAGS)
def show(
    served: Annotated[str | None, typer.Argument(metavar="MODEL", help="As of headrace serve.")] = None,
    shape: Annotated[
        Literal["table", "json", "yaml"],
        typer.Option("--format", help="yaml is a file for --config, defaults as comments."),
    ] = "table",
    **given: Any,
) -> None:
    """Show every setting with its value and where that comes from; secrets are masked. Takes serve's options.

    \b
    Examples:
      headrace config show --config headrace.yaml
      headrace config show Qwen/Qwen3-0.6B --port 9000 --format json
    """
    settings = configuration.configured(flags.SERVE_FLAGS, given, served)
    rows = list(_rows(settings, _effective(settings)))
    if shape == "json":
        print(json.dumps([asdict(row) for row in rows], indent=2))
    elif shape == "yaml":
        print(_yaml(rows), end="")
    else:
        print(_table([("setting", "value", "from"), *((row.setting, _short(row.value), row.source) for row in rows)]))


def _effective(settings: Mapping[str, Setting]) -> dict[str, Any]:
    """Every setting's value by its variable, as the servers read it. Raises CliError when one does not fit."""
    environment = servers.environment({"HEADRACE_WORKER_MODEL": _DEFAULT_MODEL, **configuration.texts(settings)})
    values: dict[str, Any] = {}
    problems: list[str] = []
    for package, classes in _CLASSES.items():
        if package in (servers.API, servers.WORKER) and not servers.is_there(package):
            continue
        command = (*servers.command("headrace_shared.settings_report"), *classes.split())
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
        problems += done.stderr.splitlines()
        values |= json.loads(done.stdout or "{}")
    if problems:
        raise CliError("\n".join(_placed(problem, settings) for problem in problems), exit_code=EXIT_CONFIGURATION)
    return values


def _placed(problem: str, settings: Mapping[str, Setting]) -> str:
    variable, _, reason = problem.partition(": ")
    return f"{settings[variable].source}: {variable}: {reason}" if variable in settings else problem


def _rows(settings: Mapping[str, Setting], values: Mapping[str, Any]) -> Iterator[Row]:
    for flag in (*flags.ALL_FLAGS, flags.STATE_DIR_FLAG):
        for variable in flag.variables:
            setting = settings.get(variable)
            value = values.get(variable, setting.text if setting else None)
            if variable in values or setting is not None:
                yield Row(_name(flag, variable), value, setting.source if setting else "default", variable)


def _name(flag: Flag, variable: str) -> str:
    """By the option; below the process where one option stands for several variables."""
    if len(flag.variables) == 1:
        return flag.name
    return f"{variable.split('_')[1].lower()}.{flag.name}"


def _short(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _table(rows: list[tuple[str, str, str]]) -> str:
    widths = [min(max(len(row[column]) for row in rows), _WIDEST_COLUMN) for column in range(2)]
    return "\n".join(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {source}".rstrip() for name, value, source in rows)


def _yaml(rows: list[Row]) -> str:
    """A file for --config, with the defaults as comments. What is masked has to be filled in again."""
    sections: dict[str, list[str]] = {}
    for row in rows:
        section, _, name = row.setting.rpartition(".")
        is_default = row.source == "default"
        text = f"{name}: {json.dumps(row.value, ensure_ascii=False)}  # {row.source}"
        sections.setdefault(section, []).append(f"# {text}" if is_default else text)
    top = sections.pop("", [])
    for section, lines in sections.items():
        # A section without a value of its own would be an empty one.
        mark = "# " if all(line.startswith("#") for line in lines) else ""
        top += [f"{mark}{section}:", *(f"  {line}" for line in lines)]
    return "\n".join([*top, ""])
