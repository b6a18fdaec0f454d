"""Structural tags: free text in which some parts have a form of their own."""

from collections.abc import Iterator
from typing import Any

from headrace_api.schemas.base import JsonObject

TYPES = frozenset(
    {"any_text", "any_tokens", "const_string", "dispatch", "exclude_token", "grammar", "json_schema", "optional", "or"}
    | {"plus", "qwen_xml_parameter", "regex", "repeat", "sequence", "star", "tag", "tags_with_separator", "token"}
    | {"token_dispatch", "token_triggered_tags", "triggered_tags"}
)
_MOST_DEEP = 64


def modern(tag: JsonObject) -> JsonObject:
    """A tag in the form with ``format``. Raises ValueError for one that has neither form."""
    if isinstance(tag.get("format"), dict):
        return {"type": "structural_tag", "format": tag["format"]}
    structures, triggers = tag.get("structures"), tag.get("triggers")
    if not isinstance(structures, list) or not isinstance(triggers, list) or not structures or not triggers:
        raise ValueError("should have a format, or structures and triggers")
    tags = []
    for index, structure in enumerate(structures):
        if not isinstance(structure, dict) or not {"begin", "schema", "end"} <= structure.keys():
            raise ValueError(f"structures[{index}] should have begin, schema and end")
        content = {"type": "json_schema", "json_schema": structure["schema"]}
        tags.append({"type": "tag", "begin": structure["begin"], "content": content, "end": structure["end"]})
    return {"type": "structural_tag", "format": {"type": "triggered_tags", "triggers": triggers, "tags": tags}}


def formats(tag: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    """Every format inside a modern tag with its path, outermost first. Raises ValueError for an unknown or missing type."""
    yield from _formats(tag["format"], "format", 0)


def _formats(format_: Any, path: str, depth: int) -> Iterator[tuple[str, JsonObject]]:
    if not isinstance(format_, dict) or format_.get("type") not in TYPES:
        raise ValueError(f"{path} should be an object whose type is one of {', '.join(sorted(TYPES))}")
    if depth > _MOST_DEEP:
        raise ValueError(f"{path} is nested more than {_MOST_DEEP} deep")
    yield path, format_
    inner: list[tuple[str, Any]] = []
    if isinstance(format_.get("content"), dict):
        inner.append((f"{path}.content", format_["content"]))
    for name in ("elements", "tags"):
        listed = format_.get(name)
        if isinstance(listed, list):
            inner += [(f"{path}.{name}[{index}]", part) for index, part in enumerate(listed)]
    rules = format_.get("rules")
    for index, rule in enumerate(rules if isinstance(rules, list) else ()):
        if not isinstance(rule, list) or len(rule) != 2:
            raise ValueError(f"{path}.rules[{index}] should be a pattern and a format")
        inner.append((f"{path}.rules[{index}][1]", rule[1]))
    for name, part in inner:
        yield from _formats(part, name, depth + 1)
