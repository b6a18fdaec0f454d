"""Where a setting's value comes from: the command line, else the environment, else a configuration file."""

import difflib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace_cli import flags
from headrace_cli.errors import EXIT_CONFIGURATION, CliError
from headrace_cli.flag import Flag, as_text, variables

_PREFIXES = ("HEADRACE_API_", "HEADRACE_WORKER_", "HEADRACE_QUEUE_", "HEADRACE_REDIS_")
_OF_A_CLUSTER = re.compile(r"_SERVICE_(HOST|PORT)|_PORT_\d+_(TCP|UDP)")
"""Kubernetes tells every container of every service like that, and one may be called headrace-api."""


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
    _warn_of_unknown_variables()
    found: dict[str, Setting] = {}
    if file is not None:
        from headrace_cli import config_file  # the YAML parser takes time that --help should not

        entries = config_file.read(Path(file))
        found = {entry.variable: Setting(entry.text, entry.place) for entry in entries if entry.variable in carried}
    for flag in known:
        found |= _exported(flag)
    for flag in known:
        texts = variables([flag], given)
        found |= {variable: Setting(text, f"--{flag.name}") for variable, text in texts.items()}
    return found


def _warn_of_unknown_variables() -> None:
    """A misspelt variable would be passed over; it may also be another program's, so it is no error."""
    known = {variable for flag in flags.ALL_FLAGS for variable in flag.variables}
    for name in sorted(os.environ.keys() - known):
        if name.startswith(_PREFIXES) and not _OF_A_CLUSTER.search(name):
            near = difflib.get_close_matches(name, known, n=1)
            guess = f"; did you mean {near[0]}?" if near else ""
            print(f"headrace: warning: {name} is not a setting{guess}", file=sys.stderr)


def _exported(flag: Flag) -> dict[str, Setting]:
    own = {name: Setting(os.environ[name], name) for name in flag.variables if name in os.environ}
    if not own and flag.fallback is not None and flag.fallback in os.environ:
        text = as_text(flag, [os.environ[flag.fallback]])
        return {name: Setting(text, flag.fallback) for name in flag.variables}
    return own


def texts(settings: Mapping[str, Setting]) -> dict[str, str]:
    """The same as environment variables."""
    return {variable: setting.text for variable, setting in settings.items()}
