"""A configuration file: options by their long names, in YAML, each with the line that it stands on.

Options stand at the top, or below the process that they are for: ``api``, ``worker``, ``queue`` or ``redis``. There
they may also be called by their variable's own name: ``url`` below ``redis`` is ``HEADRACE_REDIS_URL``.
"""

import difflib
import json
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from headrace_cli import flags
from headrace_cli.arguments import tell
from headrace_cli.errors import EXIT_CONFIGURATION, CliError
from headrace_cli.flag import Flag, as_text
from headrace_cli.foreign_flags import foreign_flag

SECTIONS = ("api", "worker", "queue", "redis")
_LONGEST_VALUE = 60


@dataclass(frozen=True)
class Entry:
    """What a file says of one variable, and where."""

    variable: str
    text: str
    place: str
    is_for_one_process: bool


@dataclass(frozen=True)
class _Key:
    """What a name stands for: ``flag``, or that it is off, for some of the processes that it is for."""

    flag: Flag
    variables: tuple[str, ...]
    negative: bool = False


def read(path: Path) -> list[Entry]:
    """Every option in the file, those below a process last. Raises CliError that names file and line."""
    try:
        loader = yaml.SafeLoader(path.read_text("utf-8"))
        root = loader.get_single_node()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise _error(str(path), f"cannot be read: {reason}") from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise _error(f"{path}{line}", f"is not YAML: {error.problem}") from None
    except yaml.YAMLError:
        raise _error(str(path), "is not YAML") from None
    if root is None or _is_null(root):
        return []
    return sorted(_entries(root, path, loader, None), key=lambda entry: entry.is_for_one_process)


def _entries(node: yaml.Node, path: Path, loader: yaml.SafeLoader, section: str | None) -> Iterator[Entry]:
    if not isinstance(node, yaml.MappingNode):
        where = f"{section}: " if section else ""
        raise _error(_place(path, node), f"{where}should hold options by their names, like port: 8000")
    seen: set[str] = set()
    for key, value in node.value:
        place, name = _place(path, key), str(key.value).replace("_", "-")
        if name in seen:
            raise _error(place, f"{name} is set a second time")
        seen.add(name)
        if section is None and name in SECTIONS and not isinstance(value, yaml.ScalarNode):
            yield from _entries(value, path, loader, name)
            continue
        if name not in (known := _keys(section)):
            if (foreign := foreign_flag(name)) is None:
                raise _error(place, f"there is no option {name}{_nearest(name, known)}")
            if not foreign.is_switch or loader.construct_object(value):
                tell(foreign, "" if foreign.is_switch else _plain(value, loader), place)
            continue
        if not _is_null(value):
            text = _text(known[name], _Value(place, name, value, loader))
            yield from (Entry(variable, text, place, section is not None) for variable in known[name].variables)


@cache
def _keys(section: str | None) -> Mapping[str, _Key]:
    prefix = f"HEADRACE_{section.upper()}_" if section else "HEADRACE_"
    found: dict[str, _Key] = {}
    for flag in (*flags.ALL_FLAGS, flags.STATE_DIR_FLAG):
        variables = tuple(variable for variable in flag.variables if variable.startswith(prefix))
        if section is None:
            variables = flag.variables
        if not variables:
            continue
        own = [variable.removeprefix(prefix).lower().replace("_", "-") for variable in variables if section]
        found |= {name: _Key(flag, variables) for name in (flag.name, *flag.also, *own)}
        found |= {name: _Key(flag, variables, negative=True) for name in flag.negatives}
    return found


def _nearest(name: str, known: Mapping[str, _Key]) -> str:
    near = difflib.get_close_matches(name, [*known, *SECTIONS], n=1)
    return f"; did you mean {near[0]}?" if near else ""


@dataclass(frozen=True)
class _Value:
    place: str
    name: str
    node: yaml.Node
    loader: yaml.SafeLoader

    def error(self, wanted: str) -> CliError:
        shown = _plain(self.node, self.loader)
        got = shown if len(shown) <= _LONGEST_VALUE else shown[:_LONGEST_VALUE] + "..."
        return _error(self.place, f"{self.name} should be {wanted}, got {got}")

    def made(self) -> Any:
        return self.loader.construct_object(self.node, deep=True)


def _text(key: _Key, value: _Value) -> str:
    """The value as its variable says it."""
    kind = key.flag.kind
    if kind is bool:
        made = value.made()
        if not isinstance(made, bool):
            raise value.error("true or false")
        return as_text(key.flag, made is not key.negative)
    if kind in (int, float):
        return _number(kind, value)
    if typing.get_origin(kind) is typing.Literal:
        text = _plain(value.node, value.loader)
        if text not in typing.get_args(kind):
            raise value.error(f"one of {', '.join(typing.get_args(kind))}")
        return text
    if kind == list[str]:
        return as_text(key.flag, _words(value))
    text = _plain(value.node, value.loader)
    if key.flag.is_json and not _is_json_object(text):
        raise value.error("an object, like {name: 1}")
    return text


def _number(kind: type, value: _Value) -> str:
    text = _plain(value.node, value.loader)
    try:
        kind(text)
    except ValueError:
        raise value.error("a whole number" if kind is int else "a number") from None
    return text


def _words(value: _Value) -> list[str]:
    nodes = value.node.value if isinstance(value.node, yaml.SequenceNode) else [value.node]
    if not all(isinstance(node, yaml.ScalarNode) for node in nodes):
        raise value.error("a text or a list of texts")
    return [str(node.value) for node in nodes]


def _plain(node: yaml.Node, loader: yaml.SafeLoader) -> str:
    """A scalar as it is written, so that 010 or 2024-05-01 can be a name; anything else as JSON."""
    return str(node.value) if isinstance(node, yaml.ScalarNode) else _json(loader.construct_object(node, deep=True))


def _json(value: object) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _place(path: Path, node: yaml.Node) -> str:
    return f"{path}:{node.start_mark.line + 1}"


def _error(place: str, message: str) -> CliError:
    return CliError(f"{place}: {message}", exit_code=EXIT_CONFIGURATION)
