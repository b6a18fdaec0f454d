"""What xgrammar enforces exactly. The rest of JSON Schema it takes for remarks, so that somebody else has to do it."""

import re
from typing import Any

from headrace_api.grammar.json_schema import Schema, walk

_MOST_BYTES = 16 * 1024
_MOST_PATTERNS = 20
"""xgrammar works out its masks in advance: beyond these sizes that takes seconds."""

NEVER = frozenset(
    {"$anchor", "$dynamicRef", "$recursiveRef", "additionalItems", "allOf", "contains", "dependencies"}
    | {"dependentRequired", "dependentSchemas", "else", "if", "maxContains", "maxProperties", "minContains"}
    | {"minProperties", "multipleOf", "not", "oneOf", "patternProperties", "propertyNames", "then"}
    | {"unevaluatedItems", "unevaluatedProperties", "uniqueItems"}
)
BOUNDS = frozenset({"exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum"})
TYPED = BOUNDS | {
    *("additionalProperties", "format", "items", "maxItems", "maxLength", "minItems", "minLength", "pattern"),
    *("prefixItems", "properties", "required"),
}
_ALONE = ("$ref", "anyOf", "enum", "const")
_ASSERTIONS = NEVER | TYPED | {*_ALONE, "type"}

_FORMATS = frozenset({"uuid"})
"""Others it takes too widely: dates that no month has, addresses with zeros in front."""
_LARGEST = 2**53
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}

_PLAIN = re.compile(
    r"""\^?(?:
        \\[dws] | \\[.+*?()\[\]{}|^$/-] |
        \[(?:\\[dws.\]-] | [^\\\[\]"^])+\] |
        \{\d+(?:,\d*)?\} | [^\\\[\]"^${}.\x00-\x1f]
    )*\$?""",
    re.VERBOSE,
)
"""No two of the alternatives begin alike, so that no pattern takes long to look at. There are no dots and no
classes of all but some characters among them: xgrammar lets them have bytes that are no character."""


def is_plain(pattern: str) -> bool:
    """Whether a regular expression has only what xgrammar reads as everybody else does."""
    if "(?" in pattern.replace("(?:", "") or re.search(r"[+*?}]\+", pattern):
        return False
    return _PLAIN.fullmatch(pattern) is not None


def inexact_part(schema: Any, source: str) -> str | None:
    """Path of the first thing in a schema that xgrammar does not enforce exactly; None when it enforces all of it."""
    if not isinstance(schema, dict):
        return "a schema that is true or false"
    if len(source) > _MOST_BYTES or source.count('"pattern"') > _MOST_PATTERNS:
        return "the size of the schema"
    for path, node in walk(schema):
        keyword = _inexact_keyword(node, is_root=not path)
        if keyword is not None:
            return f"{path}.{keyword}" if path else keyword
    return None


def _inexact_keyword(node: Schema, *, is_root: bool) -> str | None:
    keys = node.keys() & _ASSERTIONS
    if refused := sorted(keys & NEVER):
        return refused[0]
    if "$id" in node and not is_root:
        return "$id"
    for keyword in _ALONE:
        if keyword in keys:
            return None if _stands_alone(node, keyword, keys) else keyword
    typed = keys & TYPED
    if typed and "type" not in node:
        return sorted(typed)[0]
    return _inexact_string(node) or _inexact_number(node) or _inexact_array(node) or _inexact_object(node)


def _stands_alone(node: Schema, keyword: str, keys: set[str]) -> bool:
    """Whether nothing that limits the answer stands beside these keywords: it would be overlooked."""
    if keyword == "$ref":
        reference = node["$ref"]
        simple = isinstance(reference, str) and re.fullmatch(r"#(/[^~%]*)?", reference)
        return bool(simple) and keys == {"$ref"}
    if keyword == "anyOf":
        return keys == {"anyOf"} and all(isinstance(part, dict) for part in node["anyOf"])
    values = node["enum"] if keyword == "enum" else [node["const"]]
    return keys <= {keyword, "type"} and isinstance(values, list) and all(_has_type(value, node) for value in values)


def _has_type(value: object, node: Schema) -> bool:
    if "type" not in node:
        return True
    types = node["type"] if isinstance(node["type"], list) else [node["type"]]
    return any(
        isinstance(value, _TYPES.get(each, ())) and (each == "boolean" or not isinstance(value, bool)) for each in types
    )


def _inexact_string(node: Schema) -> str | None:
    # A string with a length may have control characters, which JSON has not.
    for keyword in ("maxLength", "minLength"):
        if keyword in node:
            return keyword
    pattern, format_ = node.get("pattern"), node.get("format")
    if pattern is not None and (format_ is not None or not (isinstance(pattern, str) and is_plain(pattern))):
        return "pattern"
    return "format" if format_ is not None and format_ not in _FORMATS else None


def _inexact_number(node: Schema) -> str | None:
    for keyword in sorted(node.keys() & BOUNDS):
        bound = node[keyword]
        if isinstance(bound, bool) or not isinstance(bound, int) or abs(bound) > _LARGEST:
            return keyword
    return None


def _inexact_array(node: Schema) -> str | None:
    items = node.get("items", {})
    if "prefixItems" in node and not node.keys().isdisjoint({"minItems", "maxItems"}):
        return "prefixItems"
    if not isinstance(items, dict) and "prefixItems" not in node:
        return "items"
    return None


def _inexact_object(node: Schema) -> str | None:
    properties, required = node.get("properties", {}), node.get("required", [])
    if not isinstance(properties, dict) or any(not isinstance(part, dict) for part in properties.values()):
        return "properties"
    if not isinstance(required, list) or any(name not in properties for name in required):
        return "required"
    return None
