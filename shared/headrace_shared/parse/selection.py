"""Which parsers read a model's answers: those that its operator names, or that its chat templates suggest."""

from collections.abc import Sequence

from headrace_shared.parse.reasoning import (
    ReasoningKind,
    detect_reasoning_parser,
    reasoning_parser,
    reasoning_parser_names,
)
from headrace_shared.parse.tools.registry import ToolKind, detect_tool_parser, tool_parser, tool_parser_names

DETECTED, NO_PARSER = "auto", "none"
"""Stand for the one that the templates suggest, and for none at all."""


def choose_tool_parser(name: str, templates: Sequence[str]) -> ToolKind | None:
    """``templates``: the model's, the most telling one first. Raises ValueError for a name that is not known."""
    if name == NO_PARSER:
        return None
    if name == DETECTED:
        return next(filter(None, map(detect_tool_parser, templates)), None)
    try:
        # Generations of one family are told apart by the template.
        return tool_parser(name, templates[0] if templates else "")
    except KeyError:
        raise ValueError(_unknown("tool", name, tool_parser_names())) from None


def choose_reasoning_parser(name: str, templates: Sequence[str]) -> ReasoningKind | None:
    """Likewise."""
    if name == NO_PARSER:
        return None
    if name == DETECTED:
        return next(filter(None, map(detect_reasoning_parser, templates)), None)
    try:
        return reasoning_parser(name)
    except KeyError:
        raise ValueError(_unknown("reasoning", name, reasoning_parser_names())) from None


def _unknown(what: str, name: str, known: Sequence[str]) -> str:
    return f"there is no {what} parser {name!r} here, only {', '.join(known)}"
