"""Which parsers read a model's answers: those that its card names, or that its chat template suggests."""

from collections.abc import Sequence

from headrace_api.parse.reasoning import (
    ReasoningKind,
    detect_reasoning_parser,
    reasoning_parser,
    reasoning_parser_names,
)
from headrace_api.parse.tools.registry import ToolKind, detect_tool_parser, tool_parser, tool_parser_names

NO_PARSER = "none"


def tool_kind_of(name: str | None, templates: Sequence[str]) -> ToolKind | None:
    """Without a name the first template that suggests one decides. Raises ValueError for a name that is not known."""
    if name is None:
        return next(filter(None, map(detect_tool_parser, templates)), None)
    try:
        # Generations of one family are told apart by the template.
        return tool_parser(name, templates[0] if templates else "")
    except KeyError:
        known = ", ".join(tool_parser_names())
        raise ValueError(f"there is no tool parser {name!r} here, only {known}") from None


def reasoning_kind_of(name: str | None, templates: Sequence[str]) -> ReasoningKind | None:
    """Likewise; ``NO_PARSER`` is none, whatever the templates suggest."""
    if name is None:
        return next(filter(None, map(detect_reasoning_parser, templates)), None)
    if name == NO_PARSER:
        return None
    try:
        return reasoning_parser(name)
    except KeyError:
        known = ", ".join(reasoning_parser_names())
        raise ValueError(f"there is no reasoning parser {name!r} here, only {known}") from None
