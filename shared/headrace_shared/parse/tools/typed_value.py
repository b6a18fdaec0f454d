"""Arguments written as plain text, turned into JSON by the tool's schema."""

from collections.abc import Sequence
from typing import Any

from headrace_shared.parse.tools.json_text import decoded
from headrace_shared.parse.tools.python_text import literal_to_json, number, to_json
from headrace_shared.parse.tools.source import Malformed
from headrace_shared.parse.tools.tool import Tool

_MAX_REFERENCES = 16


def typed_value(text: str, tools: Sequence[Tool], tool: str, argument: str, *, untyped: str) -> str:
    """The JSON text of an argument whose value the model has written as ``text``.

    The first type other than null that the schema allows decides, as in vLLM; ``untyped`` where it allows any, or does
    not know the argument: "string", or "json" for what JSON or Python makes of it. What is not of its type remains a
    string: whether arguments obey the schema is for the client to see.
    """
    root = next((each.parameters for each in tools if each.name == tool), None) or {}
    schema = _schema_of(root, argument)
    types = _allowed(schema, root) or [untyped]
    plain = text.strip()
    if "null" in types and plain.lower() in ("null", "none"):
        return "null"
    first = next((name for name in types if name != "null"), "null")
    if first == "string":
        # White space beside a value is part of it, unless it makes one of the values that there are into none.
        listed = _listed(schema, root)
        return to_json(plain if plain in listed and text not in listed else text)
    if plain.lower() in ("null", "none"):
        return "null"
    converted = _converted(plain, first)
    return to_json(text) if converted is None else converted


def _converted(text: str, kind: str) -> str | None:
    if kind in ("integer", "number"):
        return number(text)
    if kind == "boolean":
        return text.lower() if text.lower() in ("true", "false") else None
    try:
        decoded(text)
    except Malformed:
        return literal_to_json(text)
    return text


def _schema_of(root: dict[str, Any], argument: str) -> Any:
    properties = _resolved(root, root).get("properties")
    return properties.get(argument) if isinstance(properties, dict) else None


def _listed(schema: Any, root: dict[str, Any]) -> list[Any]:
    """The values that the schema names one by one."""
    schema = _resolved(schema, root)
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return values if isinstance(values, list) else []


def _allowed(schema: Any, root: dict[str, Any], depth: int = 0) -> list[str]:
    """The types that the schema allows, in its order; none for any."""
    schema = _resolved(schema, root)
    listed = schema.get("type")
    if isinstance(listed, str):
        return [listed]
    if isinstance(listed, list):
        return [name for name in listed if isinstance(name, str)]
    for choice in ("anyOf", "oneOf", "allOf"):
        branches = schema.get(choice)
        if isinstance(branches, list) and depth < _MAX_REFERENCES:
            types = [name for branch in branches for name in _allowed(branch, root, depth + 1)]
            if types:
                return types
    return [_type_of(value) for value in _listed(schema, root)]


def _resolved(schema: Any, root: dict[str, Any]) -> dict[str, Any]:
    """The schema that references of the form ``#/$defs/x`` lead to."""
    for _ in range(_MAX_REFERENCES):
        reference = schema.get("$ref") if isinstance(schema, dict) else None
        if not isinstance(reference, str) or not reference.startswith("#/"):
            break
        schema = root
        for part in reference[2:].split("/"):
            schema = schema.get(part) if isinstance(schema, dict) else None
    return schema if isinstance(schema, dict) else {}


def _type_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"
