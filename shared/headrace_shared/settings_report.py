"""What settings say, or what is wrong with them, in words for the operator.

``python -m headrace_shared.settings_report MODULE:CLASS ...`` prints every setting that the classes read from the
environment as a JSON object by variables, with secrets masked. Exit status 2 when one of them does not fit.
"""

import importlib
import json
import re
import sys
from collections.abc import Iterable
from typing import Any

from pydantic import AliasChoices, ValidationError
from pydantic_settings import BaseSettings
from pydantic_settings.exceptions import SettingsError

_FIELD = re.compile(r'field "([^"]+)"')
_PASSWORD = re.compile(r"(://[^:/?#@]*):[^/?#@]*@")
MASK = "**********"


def variable_of(settings: type[BaseSettings], name: str) -> str:
    """The environment variable of a field."""
    alias = settings.model_fields[name].validation_alias
    if isinstance(alias, AliasChoices):
        return str(alias.choices[0])
    return f"{settings.model_config['env_prefix']}{name.upper()}"


def problems_of(error: ValidationError | SettingsError) -> list[str]:
    """One line for each setting that does not fit."""
    if isinstance(error, ValidationError):
        return [_problem(detail["loc"], detail["msg"]) for detail in error.errors(include_input=False)]
    named = _FIELD.search(str(error))
    return [_problem([named[1].lower()] if named else [], f"is not JSON: {error.__cause__}")]


def _problem(loc: Iterable[int | str], message: str) -> str:
    name, message = "_".join(map(str, loc)), message.removeprefix("Value error, ")
    return f"{name}: {message}" if name else message


def shown(settings: BaseSettings) -> dict[str, Any]:
    """Every value by its variable, ready for JSON, nothing secret among them."""
    values = settings.model_dump(mode="json")
    return {variable_of(type(settings), name): without_password(value) for name, value in values.items()}


def without_password(value: object) -> object:
    """A URL without the password in it; anything else as it is."""
    return _PASSWORD.sub(rf"\1:{MASK}@", value) if isinstance(value, str) else value


def _split(problem: str) -> tuple[str, str, str]:
    return problem.partition(": ")


def main() -> int:
    report: dict[str, Any] = {}
    lines: list[str] = []
    for path in sys.argv[1:]:
        module, _, name = path.partition(":")
        settings: type[BaseSettings] = getattr(importlib.import_module(module), name)
        try:
            report |= shown(settings())
        except (ValidationError, SettingsError) as error:
            names = {name: variable_of(settings, name) for name in settings.model_fields}
            lines += [f"{names.get(name, name)}: {reason}" for name, _, reason in map(_split, problems_of(error))]
    sys.stderr.write("".join(f"{line}\n" for line in lines))
    sys.stdout.write(json.dumps(report))
    return 2 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
