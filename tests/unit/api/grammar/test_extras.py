"""What outlines and lm-format-enforcer would overlook or misread is refused by name."""

import json
from typing import Any

import pytest

from headrace_api.grammar.translate import constraint_of
from headrace_api.schemas.completions import CompletionRequest
from headrace_shared.errors import InvalidRequestError
from headrace_shared.protocol.grammar import GrammarBackend, GrammarSpec

OUTLINES, ENFORCER = "outlines", "lm-format-enforcer"
BOTH = (OUTLINES, ENFORCER)
STRING = {"type": "string"}


def spec(backend: str, **fields: Any) -> GrammarSpec:
    body = CompletionRequest.parse(json.dumps({"prompt": "x", "guided_decoding_backend": backend, **fields}).encode())
    found = constraint_of(body, [each.value for each in GrammarBackend])
    assert found is not None
    assert found.spec.backend == backend
    return found.spec


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": STRING, "b": {"type": ["string", "null"]}}, "required": ["a"]},
        {"type": "object"},
        {"type": "object", "additionalProperties": STRING},
        {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 2},
        {"type": "string", "minLength": 2, "maxLength": 5},
        {"enum": [1, -20, 0.5]},
        {"const": "a"},
        {"anyOf": [{"type": "null"}, {"type": "boolean"}, {"type": "number"}]},
        {"$ref": "#/$defs/a", "$defs": {"a": STRING}},
    ],
)
def test_what_both_enforce_is_left_to_them(schema: dict[str, Any], backend: str) -> None:
    spec(backend, guided_json=schema)


@pytest.mark.parametrize(
    ("schema", "part", "backends"),
    [
        ({"type": "integer", "minimum": 3}, "minimum", BOTH),
        ({"type": "string", "format": "date"}, "format", BOTH),
        ({"type": "string", "format": "uuid"}, "format", (ENFORCER,)),
        ({"type": ["string", "null"], "maxLength": 3}, "type", BOTH),
        ({"type": "array", "items": STRING, "uniqueItems": True}, "uniqueItems", BOTH),
        ({"type": "object", "additionalProperties": False}, "additionalProperties", BOTH),
        ({"type": "object", "properties": {'a"': STRING}}, "properties", BOTH),
        ({"type": "object", "properties": {" a": STRING}}, "properties", (ENFORCER,)),
        ({"type": "string", "pattern": "a", "maxLength": 3}, "pattern", BOTH),
        ({"type": "string", "pattern": r"a\\"}, "pattern", BOTH),
        ({"type": "string", "pattern": "[!-~]"}, "pattern", BOTH),
        ({"type": "string", "pattern": r"\s"}, "pattern", BOTH),
        ({"type": "string", "pattern": "a b"}, "pattern", (ENFORCER,)),
        ({"type": "string", "maxLength": 0}, "maxLength", (ENFORCER,)),
        ({"enum": ["a", 1]}, "enum", (ENFORCER,)),
        ({"enum": [True]}, "enum", (ENFORCER,)),
        ({"enum": [-0.5]}, "enum", (ENFORCER,)),
        ({"enum": ["\n"]}, "enum", (ENFORCER,)),
        ({"const": None}, "enum", (ENFORCER,)),
        ({"type": "array", "prefixItems": [STRING]}, "prefixItems", (ENFORCER,)),
        ({"type": "object", "properties": {"a": {}}}, "properties.a.a value of any type", (ENFORCER,)),
        ({"$ref": "#/$defs/a/items", "$defs": {"a": {"items": STRING, "type": "array"}}}, "$ref", (ENFORCER,)),
        ({"$ref": "#/$defs/a", "$defs": {"a": STRING}, "definitions": {}}, "$ref", (ENFORCER,)),
    ],
)
def test_what_would_be_overlooked_is_refused(schema: dict[str, Any], part: str, backends: tuple[str, ...]) -> None:
    for backend in BOTH:
        if backend not in backends:
            spec(backend, guided_json=schema)
            continue
        with pytest.raises(InvalidRequestError) as caught:
            spec(backend, guided_json=schema)
        assert caught.value.param == "guided_json"
        assert f"the backend {backend} does not enforce {part}; use guidance or auto" in caught.value.message


def test_outlines_refuses_references_that_have_no_end_or_a_distant_one() -> None:
    endless = {"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}}
    doubled = {
        f"d{level}": {
            "type": "object",
            "properties": {name: {"$ref": f"#/$defs/d{level + 1}"} for name in ("a", "b")},
        }
        for level in range(20)
    }
    wide = {"$ref": "#/$defs/d0", "$defs": doubled | {"d20": STRING}}
    for schema in (endless, wide):
        with pytest.raises(InvalidRequestError, match="so many references"):
            spec(OUTLINES, guided_json=schema)
        spec(ENFORCER, guided_json=schema)


@pytest.mark.parametrize(
    ("pattern", "written"),
    [("^a|b$", "(?:a|b)"), (r"a\$", r"(?:a\$)"), (r"[\d-]\w", "(?:[0-9-][0-9A-Za-z_])"), (r"^\d+$", "(?:[0-9]+)")],
)
def test_patterns_are_written_so_that_both_read_them_alike(pattern: str, written: str) -> None:
    for backend in BOTH:
        found = spec(backend, guided_json={"type": "string", "pattern": pattern})
        assert json.loads(found.source)["pattern"] == written


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"guided_grammar": 'root ::= "a"'}, "knows no grammars; use xgrammar, guidance or auto"),
        ({"guided_grammar": 'start: "a"'}, "knows no grammars; use xgrammar, guidance or auto"),
        (
            {"response_format": {"type": "structural_tag", "format": {"type": "any_text"}}},
            "knows no structural tags; use xgrammar or auto",
        ),
    ],
)
def test_other_kinds_of_grammars_are_refused_with_those_that_know_them(
    fields: dict[str, Any], said: str, backend: str
) -> None:
    with pytest.raises(InvalidRequestError, match=f"the backend {backend} {said}"):
        spec(backend, **fields)


def test_a_whitespace_pattern_is_for_outlines_alone() -> None:
    assert spec(OUTLINES, guided_json=STRING, guided_whitespace_pattern=" ").whitespace == " "
    with pytest.raises(InvalidRequestError, match="does not enforce a whitespace pattern"):
        spec(ENFORCER, guided_json=STRING, guided_whitespace_pattern=" ")
