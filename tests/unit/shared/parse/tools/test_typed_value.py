"""What JSON is made of an argument that is written as plain text."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_shared.parse.tools.python_text import literal_to_json
from headrace_shared.parse.tools.tool import Tool
from headrace_shared.parse.tools.typed_value import typed_value

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def _typed(text: str, schema: Any, untyped: str = "string") -> str:
    root = {
        "type": "object",
        "properties": {"x": schema},
        "$defs": {"n": {"type": "integer"}, "loop": {"$ref": "#/$defs/loop"}},
    }
    return typed_value(text, [Tool("f", parameters=root)], "f", "x", untyped=untyped)


@pytest.mark.parametrize(
    ("text", "schema", "expected"),
    [
        ("5", {"type": "string"}, '"5"'),
        ("null", {"type": "string"}, '"null"'),
        ("null", {"type": ["string", "null"]}, "null"),
        ("None", {"anyOf": [{"type": "string"}, {"type": "null"}]}, "null"),
        ("null", {"type": "integer"}, "null"),
        (" 5 ", {"type": "integer"}, "5"),
        ("5.0", {"type": "integer"}, "5.0"),
        ("1.10", {"type": "number"}, "1.10"),
        ("1e999", {"type": "number"}, "1e999"),
        ("+5", {"type": "number"}, "5"),
        ("five", {"type": "number"}, '"five"'),
        ("inf", {"type": "number"}, '"inf"'),
        ("TRUE", {"type": "boolean"}, "true"),
        ("yes", {"type": "boolean"}, '"yes"'),
        ('{"a": [1]}', {"type": "object"}, '{"a": [1]}'),
        ("{'a': None}", {"type": "object"}, '{"a": null}'),
        ("[1, ", {"type": "array"}, '"[1, "'),
        ("2", {"$ref": "#/$defs/n"}, "2"),
        ("2", {"$ref": "#/$defs/loop"}, '"2"'),
        ("2", {"$ref": "#/$defs/none"}, '"2"'),
        ("2", {"enum": [1, 2]}, "2"),
        ("2", {"enum": ["1", "2"]}, '"2"'),
        ("true", {"const": True}, "true"),
        ("2", {"oneOf": [{"type": "null"}, {"$ref": "#/$defs/n"}]}, "2"),
        ("2", {}, '"2"'),
        ("2", True, '"2"'),
    ],
)
def test_the_schema_decides_what_a_text_means(text: str, schema: Any, expected: str) -> None:
    assert _typed(text, schema) == expected


def test_without_a_schema_the_family_decides() -> None:
    assert typed_value("[2]", [], "f", "x", untyped="string") == '"[2]"'
    assert typed_value("[2]", [], "f", "x", untyped="json") == "[2]"
    assert typed_value("Paris", [], "f", "x", untyped="json") == '"Paris"'


def test_schemas_that_are_none_do_no_harm() -> None:
    for parameters in ({"properties": []}, {"properties": {"x": 5}}, {"properties": {"x": {"type": 5}}}, {"$ref": 5}):
        assert typed_value("2", [Tool("f", parameters=parameters)], "f", "x", untyped="string") == '"2"'


@given(VALUES)
@settings(max_examples=100, deadline=None)
def test_literals_of_python_become_the_same_values_in_json(value: Any) -> None:
    text = literal_to_json(repr(value))
    assert text is not None
    assert json.loads(text) == value


@pytest.mark.parametrize(
    "text", ["", "f()", "1 + 1", "x", "'a", "{1: }", "[1 2", "b'x'", "1 2", "{[]: 1}", "[" * 5000, "'a' 'b'"]
)
def test_other_text_is_no_literal(text: str) -> None:
    assert literal_to_json(text) is None


def test_odd_literals() -> None:
    assert literal_to_json("{1: 'a', None: 2, True: 3}") == '{"1": "a", "null": 2, "true": 3}'
    assert literal_to_json(r"'\x41\u00e4\101\q\ud800'") == r'"A\u00e4A\\q\ud800"'
    assert literal_to_json("(1, 0x10, .5)") == "[1, 16, 0.5]"
