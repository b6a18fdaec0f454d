"""The tool parsers by name, and which of them a chat template asks for."""

from headrace_shared.parse.tools.families import ALIASES, KINDS
from headrace_shared.parse.tools.kind import CallIds, ToolKind

__all__ = [
    "CallIds",
    "ToolKind",
    "detect_tool_parser",
    "register_tool_parser",
    "tool_parser",
    "tool_parser_names",
    "unregister_tool_parser",
]

_own: dict[str, ToolKind] = {}


def tool_parser(name: str, chat_template: str = "") -> ToolKind:
    """The family of that name or alias. Raises KeyError for an unknown one.

    Where generations of a family differ, the one that the template shows, or the last, which is the usual one.
    """
    if name in _own:
        return _own[name]
    kinds = [kind for kind in KINDS if kind.name == ALIASES.get(name, name)]
    if not kinds:
        raise KeyError(name)
    return next((kind for kind in kinds if kind.detect(chat_template)), kinds[-1])


def detect_tool_parser(chat_template: str) -> ToolKind | None:
    """The first family whose signs the template has, own ones first; None when the template knows of no tools."""
    return next((kind for kind in (*_own.values(), *KINDS) if kind.detect(chat_template)), None)


def tool_parser_names() -> list[str]:
    """All names that ``tool_parser`` knows, sorted."""
    return sorted({*_own, *ALIASES, *(kind.name for kind in KINDS)})


def register_tool_parser(kind: ToolKind) -> None:
    """Adds a family: what a file of own parsers calls. Raises ValueError for a name that is taken."""
    if kind.name in tool_parser_names():
        raise ValueError(f"there is a tool parser named {kind.name} already; choose another name")
    _own[kind.name] = kind


def unregister_tool_parser(name: str) -> None:
    """Takes back an own family."""
    del _own[name]
