"""How commands read their arguments: the way their users know it from other servers.

``_`` and ``-`` are the same in an option's name, several values may follow one option, and an option that belongs to
another server is refused with the reason.
"""

import re
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup, TyperOption

from headrace_cli.errors import EXIT_CONFIGURATION, CliError
from headrace_cli.foreign_flags import SHORT, ForeignFlag, foreign_flag

_SHORT = re.compile(rf"({'|'.join(sorted(SHORT, key=len, reverse=True))})=?(\d.*)?")
"""With its value after it or in one word, like -O3."""


class _Spelling:
    """What all commands do with their words before they are parsed."""

    from_elsewhere = False
    """Whether it knows other servers' options."""
    params: list[Any]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        parsed: list[str] = super().parse_args(ctx, list(self.spelt_out(args)))  # type: ignore[misc]
        return parsed

    def spelt_out(self, args: Sequence[str]) -> Iterator[str]:
        """``args`` as the parser wants them."""
        options = self._options()
        places_taken = not any(param.param_type_name == "argument" for param in self.params)
        rest = deque(args)
        while rest:
            word = rest.popleft()
            if word == "--":
                yield from [word, *rest]
                return
            if not word.startswith("-") or word == "-":
                places_taken = True
                yield word
                continue
            name, equals, value = self._named(word)
            option = options.get(name)
            if option is None and self._is_foreign(name, value if equals else None, rest):
                continue
            yield name + equals + value
            if option is not None and not option.is_flag and not equals:
                yield from _values(option, name, rest, several=places_taken)

    def _named(self, word: str) -> tuple[str, str, str]:
        """An option's name, and what is written behind it in the same word."""
        short = _SHORT.fullmatch(word) if self.from_elsewhere else None
        if short is not None:
            return f"--{SHORT[short[1]]}", "=" if short[2] else "", short[2] or ""
        name, equals, value = word.partition("=")
        return name.replace("_", "-") if name.startswith("--") else name, equals, value

    def _is_foreign(self, name: str, value: str | None, rest: deque[str]) -> bool:
        """Whether it is an option of another server that asks for nothing. Raises CliError when it asks for something."""
        foreign = foreign_flag(name.removeprefix("--")) if self.from_elsewhere else None
        if foreign is None:
            return False
        if value is None and not foreign.is_switch and rest and not rest[0].startswith("--"):
            value = rest.popleft()
        tell(foreign, value or "")
        return True

    def _options(self) -> dict[str, TyperOption]:
        return {
            name: param
            for param in self.params
            if isinstance(param, TyperOption)
            for name in (*param.opts, *param.secondary_opts)
        }


class Command(_Spelling, TyperCommand):
    """Any command."""


class Group(_Spelling, TyperGroup):
    """A command that has further ones below it."""


class ServerCommand(Command):
    """A command that others' start scripts may be turned into."""

    from_elsewhere = True


def _values(option: TyperOption, name: str, rest: deque[str], *, several: bool) -> Iterator[str]:
    """Its value, and when it takes ``several``, each further one under its name again.

    Before the model's name is known, a word without an option could be that.
    """
    if rest:
        yield rest.popleft()
    while several and option.multiple and rest and not rest[0].startswith("-"):
        yield name
        yield rest.popleft()


def tell(flag: ForeignFlag, value: str, place: str = "") -> None:
    """Say on stderr that ``flag`` has no effect, or raise CliError when it asks for something.

    ``place`` is where it stands, when that is not the command line.
    """
    where = f"{place}: " if place else ""
    if (refusal := flag.refusal(value)) is not None:
        raise CliError(f"{where}{refusal}", exit_code=EXIT_CONFIGURATION)
    if flag.warning is not None:
        print(f"headrace: warning: {where}{flag.warning}", file=sys.stderr)
