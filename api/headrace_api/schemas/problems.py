"""What is wrong with a body, said per parameter: which one, what it is, what is allowed."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from headrace_shared.errors import InvalidRequestError

_MOST_LISTED = 10
_LONGEST_VALUE = 80
_MISSING = object()
_COUNTED = re.compile(r" after validation, not .*$")
"""pydantic's own way to show a list's length; ours follows."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong. ``param`` is a path like ``messages[0].role``; None: the body as a whole."""

    param: str | None
    message: str

    def __str__(self) -> str:
        return f"{self.param}: {self.message}" if self.param else self.message


def refuse(problems: Sequence[Problem]) -> InvalidRequestError:
    """The error that tells all ``problems`` at once, the first ten in full."""
    listed = "; ".join(str(problem) for problem in problems[:_MOST_LISTED])
    if len(problems) > 1:
        rest = len(problems) - _MOST_LISTED
        listed = f"{len(problems)} problems: {listed}" + (f"; and {rest} more" if rest > 0 else "")
    return InvalidRequestError(f"{listed}.", param=problems[0].param)


def problems_of(error: ValidationError, body: object) -> list[Problem]:
    """pydantic's findings in our words; one per parameter, with pydantic's internals left out."""
    told: dict[str | None, list[str]] = {}
    values: dict[str | None, object] = {}
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        param, value = _locate(detail["loc"], body, missing=detail["type"] == "missing")
        values[param] = value
        message = "is required" if detail["type"] == "missing" else reworded(detail["msg"])
        if message not in told.setdefault(param, []):
            told[param].append(message)
    return [Problem(param, " or ".join(messages) + _got(values[param])) for param, messages in told.items()]


def shown(value: object) -> str:
    """``value`` for a message, cut short."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    text = json.dumps(value[:_LONGEST_VALUE] if isinstance(value, str) else value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST_VALUE + 2 else text[:_LONGEST_VALUE] + "..."


def _locate(loc: Iterable[int | str], body: object, *, missing: bool) -> tuple[str | None, object]:
    """The path through the body itself; steps of ``loc`` that only name a branch of a type are skipped."""
    steps = list(loc)
    path = ""
    value: Any = body
    for position, step in enumerate(steps):
        if isinstance(value, dict) and (step in value or (missing and position == len(steps) - 1)):
            path += f".{step}" if path else str(step)
            value = value.get(step, _MISSING)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            path += f"[{step}]"
            value = value[step]
    return path or None, value


def _got(value: object) -> str:
    return "" if value is _MISSING else f", got {shown(value)}"


def reworded(message: str) -> str:
    """A complaint of pydantic without its framing."""
    message = message.removeprefix("Value error, ").removeprefix("Input ")
    message = _COUNTED.sub("", message)
    return message[:1].lower() + message[1:]
