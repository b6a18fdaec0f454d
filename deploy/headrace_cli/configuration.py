"""Where a setting's value comes from: the command line, else the environment, else a configuration file."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace_cli import flags
from headrace_cli.errors import EXIT_CONFIGURATION, CliError
from headrace_cli.flags import Flag


@dataclass(frozen=True)
class Setting:
    """A variable's value, and who said so: an option, a variable, or ``file:line``."""

    text: str
    source: str


def configured(known: Iterable[Flag], given: Mapping[str, Any], served: str | None = None) -> dict[str, Setting]:
    """Everything that was set among ``known``, by variables.

    ``given`` are a command's keyword arguments, ``served`` is its MODEL. Raises CliError when that and --model differ,
    and for a configuration file that cannot be used, even when it is another process that could not use it.
    """
    known = tuple(flag for flag in known if flag is not flags.CONFIG_FLAG)
    if served is not None:
        if given.get("model") not in (None, served):
            raise CliError(f"MODEL is {served}, and --model is {given['model']}", exit_code=EXIT_CONFIGURATION)
        given = {**given, "model": served}
    carried = {variable for flag in known for variable in flag.variables}
    file = given.get(flags.CONFIG_FLAG.keyword) or os.environ.get(flags.CONFIG_FLAG.variables[0])
    found: dict[str, Setting] = {}
    if file is not None:
        from headrace_cli import config_file  # the YAML parser takes time that --help should not

        entries = config_file.read(Path(file))
        found = {entry.variable: Setting(entry.text, entry.place) for entry in entries if entry.variable in carried}
    for flag in known:
        found |= _exported(flag)
    for flag in known:
        texts = flags.variables([flag], given)
        found |= {variable: Setting(text, f"--{flag.name}") for variable, text in texts.items()}
    return found


def _exported(flag: Flag) -> dict[str, Setting]:
    own = {name: Setting(os.environ[name], name) for name in flag.variables if name in os.environ}
    if not own and flag.fallback is not None and flag.fallback in os.environ:
        text = flags.as_text(flag, [os.environ[flag.fallback]])
        return {name: Setting(text, flag.fallback) for name in flag.variables}
    return own


def texts(settings: Mapping[str, Setting]) -> dict[str, str]:
    """The same as environment variables."""
    return {variable: setting.text for variable, setting in settings.items()}
