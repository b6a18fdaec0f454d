"""outlines and lm-format-enforcer: what of a JSON schema they enforce exactly, which is less than others do.

Both overlook most of what they do not know, so that it has to be refused here.
"""

import json
import re
from typing import Any

from headrace_api.grammar.exactness import BOUNDS, TYPED, inexact_part
from headrace_api.grammar.json_schema import Schema, parts, walk
from headrace_shared.protocol.grammar import GrammarBackend

EXTRAS = frozenset({GrammarBackend.OUTLINES, GrammarBackend.LM_FORMAT_ENFORCER})

_LENGTHS = ("maxLength", "minLength")
_MOST_PARTS = 1000
"""Of a schema whose references are replaced by what they refer to, as outlines does."""
_NUMBER = re.compile(r"-?[1-9][0-9]*(\.[0-9]+)?|0(\.[0-9]+)?")
_NOT_AS_IT_IS = '"\\' + "".join(map(chr, range(32)))
"""Characters that a JSON string does not hold as they are."""


def unenforced_part(schema: Any, backend: GrammarBackend) -> str | None:
    """Path of the first thing in a schema that one of ``EXTRAS`` does not enforce; None when it enforces all of it.

    Rewrites what they would misread: patterns get brackets, and keywords that ask for nothing go.
    """
    # Unlike xgrammar they count the characters of a string well.
    others = json.loads(json.dumps(schema))
    for _, node in walk(others):
        for length in _LENGTHS:
            node.pop(length, None)
    inexact = inexact_part(others, json.dumps(others))
    if inexact is not None:
        return inexact
    if backend is GrammarBackend.OUTLINES and not _is_small(schema):
        return "a reference to itself, or so many references"
    for path, node in walk(schema):
        keyword = _in_common(node) or (_of_enforcer(node, schema) if backend is not GrammarBackend.OUTLINES else None)
        if keyword is not None:
            return f"{path}.{keyword}" if path else keyword
    return None


def _in_common(node: Schema) -> str | None:
    if bounds := sorted(node.keys() & BOUNDS):
        return bounds[0]
    if isinstance(node.get("type"), list) and node.keys() & TYPED:
        return "type"
    if not all(map(_is_as_in_json, node.get("properties", {}))):
        return "properties"
    if node.get("additionalProperties") is True:
        del node["additionalProperties"]
    if node.get("additionalProperties") is False and "properties" not in node:
        return "additionalProperties"
    return _string(node)


def _string(node: Schema) -> str | None:
    pattern = node.get("pattern")
    if pattern is None:
        return None
    if not node.keys().isdisjoint(_LENGTHS) or any(_may_be(atom, _NOT_AS_IT_IS) for atom in _atoms(pattern)):
        return "pattern"
    inner = "".join(atom if len(atom) == 1 else _ascii(atom) for atom in _atoms(pattern.removeprefix("^")))
    node["pattern"] = f"(?:{inner.removesuffix('$')})" if _atoms(inner)[-1:] == ["$"] else f"(?:{inner})"
    return None


def _of_enforcer(node: Schema, root: Schema) -> str | None:
    for keyword in ("format", "prefixItems"):
        if keyword in node:
            return keyword
    if node.get("maxLength") == 0:
        return "maxLength"
    # Blanks at the beginning of a string are nothing to it.
    if any(name[:1].isspace() for name in node.get("properties", {})):
        return "properties"
    if any(_may_be(atom, " ") for atom in _atoms(node.get("pattern", ""))):
        return "pattern"
    if "$ref" in node:
        # It looks for the last part of the path in either of the two.
        place = re.fullmatch(r"#/(\$defs|definitions)/([^/~%]+)", node["$ref"])
        known = place and ("definitions" if "definitions" in root else "$defs") == place[1]
        return None if known and place and place[2] in root[place[1]] else "$ref"
    if "const" in node:
        node["enum"] = [node.pop("const")]
    if "enum" in node:
        return None if _is_plain_choice(node) else "enum"
    return None if "type" in node or "anyOf" in node else "a value of any type"


def _is_plain_choice(node: Schema) -> bool:
    """Strings alone, or numbers alone, that are written in one way only."""
    values = node["enum"]
    if all(isinstance(value, str) and _is_as_in_json(value) and not value[:1].isspace() for value in values):
        return bool(values)
    return "type" not in node and all(
        not isinstance(value, bool) and isinstance(value, int | float) and _NUMBER.fullmatch(json.dumps(value))
        for value in values
    )


def _is_as_in_json(text: str) -> bool:
    return json.dumps(text, ensure_ascii=False) == f'"{text}"'


def _atoms(pattern: str) -> list[str]:
    """The parts of a plain pattern that stand for one character; its operators as well, which do no harm."""
    return [found[0] for found in re.finditer(r"\[(?:\\.|[^\]\\])+\]|\\.|[^\\]", pattern)]


def _may_be(atom: str, characters: str) -> bool:
    if len(atom) == 1:
        return atom in characters
    return re.search(atom, characters) is not None


def _ascii(atom: str) -> str:
    """With digits and letters as JSON Schema means them: how many others there are depends on who is asked."""
    for name, meant in (("\\d", "0-9"), ("\\w", "0-9A-Za-z_")):
        atom = f"[{meant}]" if atom == name else atom.replace(name, meant)
    return atom


def _is_small(schema: Any) -> bool:
    """Whether a schema has an end, and not too far away, when every reference is followed."""
    waiting: list[tuple[Any, int]] = [(schema, 0)]
    for _ in range(_MOST_PARTS):
        if not waiting:
            return True
        node, depth = waiting.pop()
        if not isinstance(node, dict):
            continue
        if depth > _MOST_PARTS // 10:
            return False
        inner = [part for name, part in parts(node) if not name.startswith(("$defs", "definitions"))]
        if isinstance(node.get("$ref"), str):
            inner.append(_referred(schema, node["$ref"]))
        waiting += [(part, depth + 1) for part in inner]
    return False


def _referred(schema: Any, reference: str) -> Any:
    found = schema
    for step in reference.removeprefix("#").split("/")[1:]:
        found = found.get(step) if isinstance(found, dict) else None
    return found
