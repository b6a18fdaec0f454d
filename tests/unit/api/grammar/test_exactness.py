"""What is left to xgrammar is what xgrammar enforces: its answers are tested with real engines, its limits here."""

import json
import time
from typing import Any

import pytest

from headrace_api.grammar.exactness import inexact_part, is_plain


@pytest.mark.parametrize(
    ("schema", "part"),
    [
        ({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}, "properties.a.uniqueItems"),
        ({"allOf": [{"type": "integer"}, {"maximum": 3}]}, "allOf"),
        ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, "oneOf"),
        ({"type": "string", "not": {"const": "a"}}, "not"),
        ({"type": "object", "if": {}, "then": {}}, "if"),
        ({"type": "string", "pattern": "^a+$", "maxLength": 2}, "maxLength"),
        ({"type": "string", "pattern": "^(?i)a$"}, "pattern"),
        ({"type": "string", "format": "date"}, "format"),
        ({"type": "object", "properties": {}, "required": ["a"]}, "required"),
        ({"type": "object", "properties": {"a": False}}, "properties"),
        ({"minimum": 3}, "minimum"),
        ({"$ref": "#/$defs/x", "maximum": 3, "$defs": {"x": {"type": "integer"}}}, "$ref"),
        ({"$ref": "#anchor", "$defs": {"x": {"type": "integer"}}}, "$ref"),
        ({"type": "string", "enum": ["a", 1]}, "enum"),
        ({"type": "array", "items": [{"type": "integer"}]}, "items"),
        ({"type": "array", "prefixItems": [{"type": "integer"}], "minItems": 1}, "prefixItems"),
        ({"type": "integer", "minimum": 0.5}, "minimum"),
        ({"type": "integer", "minimum": 2**60}, "minimum"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"type": "object", "patternProperties": {"^x": {}}}, "patternProperties"),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"anyOf": [{"type": "integer"}], "type": "integer"}, "anyOf"),
        ({"type": "array", "contains": {"const": 5}}, "contains"),
        (True, "a schema that is true or false"),
        ({"description": "x" * 20_000}, "the size of the schema"),
    ],
)
def test_what_xgrammar_overlooks_is_found(schema: Any, part: str) -> None:
    assert inexact_part(schema, json.dumps(schema)) == part


@pytest.mark.parametrize(
    "schema",
    [
        {"title": "t", "type": "object", "properties": {"not": {"type": "integer"}}, "required": ["not"]},
        {"enum": ["not", {"if": 1}]},
        {"type": "string", "pattern": "^[a-z]{1,3}(-[0-9]+)?$"},
        {"$ref": "#/$defs/x", "$defs": {"x": {"type": ["integer", "null"], "minimum": 1}}},
        {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "null"}]}, "maxItems": 3},
        {"type": "object", "additionalProperties": {"type": "number", "maximum": 3}},
    ],
)
def test_ordinary_schemas_are_left_to_xgrammar(schema: Any) -> None:
    assert inexact_part(schema, json.dumps(schema)) is None


@pytest.mark.parametrize("pattern", ["(?:a" * 4000 + "\x01", "[" * 9000, "[a" * 9000, r"\d" * 9000 + '"', "{1" * 9000])
def test_no_pattern_takes_long_to_look_at(pattern: str) -> None:
    begin = time.monotonic()
    assert not is_plain(pattern)
    assert time.monotonic() - begin < 1


@pytest.mark.parametrize(
    "pattern", ["^a{1,3}$", "(?:ab|c)+", r"^\d{3}-\d{4}$", "[äöü_.]?", r"v\d\.\d", "^$", "[a-z0-9]*@x"]
)
def test_plain_patterns_are_known(pattern: str) -> None:
    assert is_plain(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        ".",
        "[^a]",
        r"\S",
        "(?i)a",
        "a$b",
        "a|^b",
        r"\bab",
        r"(a)\1",
        "a++",
        '"',
        r"\\",
        r"\n",
        "[[:alpha:]]",
        r"\p{L}",
        "(?=a)",
    ],
)
def test_other_patterns_are_left_to_guidance(pattern: str) -> None:
    assert not is_plain(pattern)
