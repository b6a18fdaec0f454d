"""Flag: an option that becomes a setting of a server process, and how commands take and hand on several of them."""

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import typer

Command = TypeVar("Command", bound=Callable[..., None])


@dataclass(frozen=True)
class Flag:
    """``--name`` on the command line and the environment variables that carry it to the servers."""

    name: str
    kind: Any
    help: str
    variables: tuple[str, ...]
    metavar: str | None = None
    also: tuple[str, ...] = ()
    """Further spellings: the setting's own name, where the option's is shorter, and what other servers call it."""
    off: str | None = None
    """What switches it off, besides its name with ``no-`` in front."""
    exact: bool = False
    """Of several values: a comma belongs to its value."""
    is_json: bool = False
    """The text is a JSON object."""
    fallback: str | None = None
    """A variable of another server that is read where none of ours is set."""

    @property
    def keyword(self) -> str:
        """The command function's parameter."""
        return self.name.replace("-", "_")

    def parameter(self) -> inspect.Parameter:
        option = typer.Option(
            *self._spellings(),
            help=self.help,
            metavar=self.metavar,
            show_default=False,
            parser=_json_object if self.is_json else None,
        )
        return inspect.Parameter(
            self.keyword, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[self.kind | None, option]
        )

    def _spellings(self) -> tuple[str, ...]:
        if self.kind is not bool:
            return tuple(f"--{name}" for name in (self.name, *self.also))
        return (f"--{self.name}/--{self.negatives[0]}", *(f" /--{name}" for name in self.negatives[1:]))

    @property
    def negatives(self) -> tuple[str, ...]:
        """The names that switch it off, its own one first."""
        if self.kind is not bool:
            return ()
        return (f"no-{self.name}",) if self.off is None else (self.off, f"no-{self.name}")


def _json_object(text: str) -> str:
    try:
        if isinstance(json.loads(text), dict):
            return text
    except ValueError as error:
        raise typer.BadParameter(f"is not JSON: {error}") from None
    raise typer.BadParameter('is to be a JSON object, like {"name": 1}')


def accepts(*flags: Flag) -> Callable[[Command], Command]:
    """Give a command taking ``**given`` the options in ``flags``; those not given arrive as None."""

    def decorate(command: Command) -> Command:
        own = inspect.signature(command)
        named = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        command.__signature__ = own.replace(parameters=[*named, *(flag.parameter() for flag in flags)])  # type: ignore[attr-defined]
        return command

    return decorate


def variables(flags: Iterable[Flag], given: Mapping[str, Any]) -> dict[str, str]:
    """The environment variables for the options in ``given``, a command's keyword arguments."""
    found = {}
    for flag in flags:
        value = given.get(flag.keyword)
        if value is None or value == []:
            continue
        for variable in flag.variables:
            found[variable] = as_text(flag, value)
    return found


def as_text(flag: Flag, value: object) -> str:
    """A value of ``flag``'s kind as its variables say it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return json.dumps(value) if flag.exact and any("," in each for each in value) else ",".join(value)
    return str(value)
