"""Own tool parsers from a Python file."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from headrace_shared.parse.tools.registry import tool_parser_names, unregister_tool_parser


class ToolParserPluginError(Exception):
    """A file of own parsers cannot be used; the message names it and says what to do. Catch it at start."""


def load_tool_parser_plugin(path: Path) -> list[str]:
    """Runs the file, which calls ``register_tool_parser``, and returns the names that it has registered, sorted.

    When it fails, nothing of it remains registered.
    """
    if not path.is_file():
        raise ToolParserPluginError(f"tool parser plugin {path}: there is no such file")
    spec = spec_from_file_location(f"headrace_tool_parser_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ToolParserPluginError(f"tool parser plugin {path}: is no Python file; its name should end in .py")
    before = set(tool_parser_names())
    try:
        spec.loader.exec_module(module_from_spec(spec))
    except Exception as error:
        for name in _added(before):
            unregister_tool_parser(name)
        problem = f"{type(error).__name__}: {error}"
        raise ToolParserPluginError(f"tool parser plugin {path}: failed to load with {problem}") from error
    if not _added(before):
        raise ToolParserPluginError(
            f"tool parser plugin {path}: registers no parser; it should call register_tool_parser(ToolKind(...)), "
            "both from headrace_shared.parse.tools.registry"
        )
    return _added(before)


def _added(before: set[str]) -> list[str]:
    return sorted(set(tool_parser_names()) - before)
