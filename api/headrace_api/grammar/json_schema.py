"""JSON schemas before they become grammars: their parts, and the rewriting that changes no meaning."""

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

_ONE = frozenset(
    {"additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not"}
    | {"propertyNames", "then", "unevaluatedItems", "unevaluatedProperties"}
)
_LISTS = frozenset({"allOf", "anyOf", "items", "oneOf", "prefixItems"})
_MAPS = frozenset({"$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"})

FORMATS = frozenset(
    {"date", "date-time", "duration", "email", "hostname", "idn-email", "idn-hostname", "ipv4", "ipv6", "iri"}
    | {"iri-reference", "json-pointer", "regex", "relative-json-pointer", "time", "uri", "uri-reference"}
    | {"uri-template", "uuid"}
)
"""Those that the specification gives a meaning; others are remarks."""

MOST_DEEP = 64


class TooDeepError(ValueError):
    """A schema is nested deeper than ``MOST_DEEP``."""


def parts(schema: Schema) -> Iterator[tuple[str, Any]]:
    """The schemas directly inside one, each with its path from there, such as ``properties.name``."""
    for keyword, value in schema.items():
        if keyword in _ONE and isinstance(value, dict | bool):
            yield keyword, value
        elif keyword in _LISTS and isinstance(value, list):
            yield from ((f"{keyword}[{index}]", part) for index, part in enumerate(value))
        elif keyword in _MAPS and isinstance(value, dict):
            yield from ((f"{keyword}.{name}", part) for name, part in value.items())


def walk(schema: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Schema]]:
    """Every object among the schema and its parts, outermost first. Raises TooDeepError."""
    if not isinstance(schema, dict):
        return
    if depth > MOST_DEEP:
        raise TooDeepError(f"is nested more than {MOST_DEEP} deep")
    yield path, schema
    for name, part in parts(schema):
        yield from walk(part, f"{path}.{name}" if path else name, depth + 1)


def tidy(schema: Any, *, close_all: bool = False) -> None:
    """Rewrite a schema in place into one that is easier to follow. Raises TooDeepError.

    Keywords that ask for nothing go, and so do formats that no specification knows. Objects that
    list their properties and say nothing of others get no others: their answers are among those of
    the schema, and end. Schemas that put objects together out of several parts stay open, unless
    ``close_all``, because a part that is closed forbids the others' properties.
    """
    nodes = [node for _, node in walk(schema)]
    close = close_all or not any(map(_is_composed, nodes))
    for node in nodes:
        if node.get("uniqueItems") is False:
            del node["uniqueItems"]
        if "format" in node and not _formats_a_string(node):
            del node["format"]
        if close and ("properties" in node or "patternProperties" in node):
            node.setdefault("additionalProperties", False)


def _formats_a_string(node: Schema) -> bool:
    types = node.get("type", "string")
    return node["format"] in FORMATS and ("string" in types if isinstance(types, list) else types == "string")


def _is_composed(node: Schema) -> bool:
    """Whether several parts say together what one object may have."""
    if len(node.get("allOf", ())) > 1 or not node.keys().isdisjoint({"unevaluatedProperties", "$dynamicRef"}):
        return True
    own = not node.keys().isdisjoint({"properties", "patternProperties", "required", "additionalProperties"})
    return own + sum(key in node for key in ("$ref", "allOf", "anyOf", "oneOf", "if", "not", "dependentSchemas")) > 1
