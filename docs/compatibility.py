"""The page that compares Headrace with the servers whose clients and start scripts it takes.

Its rows are in docs/compatibility/*.toml. Those of options get their answers from the code; those of fields, headers
and paths say theirs, and tests/contract/openai/test_compatibility.py holds them against the running server.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from headrace_cli import flags
from headrace_cli.foreign_flags import foreign_flag

ROWS = Path(__file__).parent / "compatibility"
FIELD_FILES = (
    "generation",
    "chat",
    "completions",
    "responses",
    "conversation",
    "messages",
    "batches",
    "tokenize",
    "detokenize",
)
"""By the order on the page. A file for a request that is not here yet is added here."""
_ANSWERS = {
    "honoured": "honoured",
    "answer": "honoured",
    "without_effect": "accepted, without effect",
    "refused": "refused",
    "absent": "not there: 404",
}
_HEAD = """# Compatibility

What becomes of everything that clients and start scripts of vLLM's and OpenAI's text endpoints send. Nothing is passed
over in silence: a field or header is honoured or refused with status 400 and its name; an option is honoured or ends
the command with one line that says why. "Without effect" is what changes no answer; fields are accepted then, options
told in a warning. Fields that nobody knows are accepted, logged, and named in the header `X-Headrace-Unknown-Fields`.
"""


@dataclass(frozen=True)
class Table:
    """One table of the page."""

    title: str
    rows: Mapping[str, Mapping[str, str]]
    """Answer to names with their notes."""
    requests: tuple[str, ...] = ()
    """The request models whose fields these are."""


def table(name: str, title: str = "") -> Table:
    """The rows of one file."""
    content = tomllib.loads((ROWS / f"{name}.toml").read_text("utf-8"))
    rows = {answer: content[answer] for answer in _ANSWERS if answer in content}
    return Table(content.get("title", title), rows, tuple(content.get("requests", ())))


def field_tables() -> list[Table]:
    """Those of the fields of bodies."""
    return [table(name) for name in FIELD_FILES]


def flag_groups() -> tuple[list[tuple[str, list[str]]], Mapping[str, str]]:
    """Options of other servers by topics, and notes on some."""
    content = tomllib.loads((ROWS / "flags.toml").read_text("utf-8"))
    return [(group["title"], group["names"]) for group in content["group"]], content["notes"]


def page() -> str:
    parts = [_HEAD, "# Endpoints\n", _written(table("endpoints"), "Path")]
    headers = table("headers")
    asked = Table("", {answer: rows for answer, rows in headers.rows.items() if answer != "answer"})
    parts += ["# Headers\n", "Of requests:\n", _written(asked, "Header"), "Of answers:\n"]
    parts.append(_written(Table("", {"answer": headers.rows["answer"]}), "Header"))
    parts.append("# Fields\n")
    for each in field_tables():
        parts += [f"## {each.title}\n", _written(each, "Field")]
    parts += [
        "# Options\n",
        "The names of all options with their variables are in [configuration.md](configuration.md).\n",
    ]
    groups, notes = flag_groups()
    for title, names in groups:
        parts += [f"## {title}\n", _lines("Option", (_flag_row(name, notes.get(name, "")) for name in names))]
    named = {name for _, names in groups for name in names}
    own = [flag for flag in flags.SERVE_FLAGS if not named & {flag.name, *flag.also, *flag.negatives}]
    parts += ["## Headrace's own\n", _lines("Option", ((f"`--{flag.name}`", "honoured", flag.help) for flag in own))]
    return "\n".join(parts)


def _flag_row(name: str, note: str) -> tuple[str, str, str]:
    for flag in flags.SERVE_FLAGS:
        if name in flag.negatives:
            return f"`--{name}`", "honoured", note or f"Switches off: {flag.help}"
        if name in (flag.name, *flag.also):
            return f"`--{name}`", "honoured", note or flag.help
    foreign = foreign_flag(name)
    if foreign is None:
        raise ValueError(f"--{name} is in docs/compatibility/flags.toml, and the command line does not know it")
    if foreign.harmless:
        return f"`--{name}`", "accepted, without effect", _sentence(foreign.why)
    accepted = f" Accepted: {', '.join(f'`{value}`' for value in foreign.off)}." if foreign.off else ""
    return f"`--{name}`", "refused", _sentence(foreign.why) + accepted


def _sentence(reason: str) -> str:
    return f"{reason[0].upper()}{reason[1:]}."


def _written(content: Table, head: str) -> str:
    return _lines(
        head,
        ((f"`{name}`", _ANSWERS[answer], note) for answer, rows in content.rows.items() for name, note in rows.items()),
    )


def _lines(head: str, rows: Iterator[tuple[str, str, str]]) -> str:
    cells = ([re.sub(r"\s+", " ", cell).replace("|", "\\|").strip() for cell in row] for row in rows)
    return "\n".join([f"| {head} | Here | Note |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in cells), ""])
