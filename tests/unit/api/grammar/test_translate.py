"""Every way to ask for a form of the answer becomes one grammar, and what cannot be done is refused."""

import json
from typing import Any

import pytest

from headrace_api.grammar.translate import Constraint, constraint_of
from headrace_api.schemas.chat import ChatRequest
from headrace_api.schemas.completions import CompletionRequest
from headrace_shared.errors import InvalidRequestError
from headrace_shared.protocol.grammar import GrammarBackend, GrammarKind

BACKENDS = ("xgrammar", "guidance")
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
CLOSED = {**SCHEMA, "additionalProperties": False}
NOT_EXACT = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 3}}}
TAG = {
    "type": "structural_tag",
    "format": {"type": "tag", "begin": "<a>", "content": {"type": "json_schema", "json_schema": SCHEMA}, "end": "</a>"},
}
OLD_TAG = {
    "type": "structural_tag",
    "structures": [{"begin": "<a>", "schema": SCHEMA, "end": "</a>"}],
    "triggers": ["<a"],
}


def constraint(**fields: Any) -> Constraint | None:
    found = [
        constraint_of(model.parse(json.dumps(base | fields).encode()), BACKENDS)
        for model, base in (
            (CompletionRequest, {"prompt": "x"}),
            (ChatRequest, {"messages": [{"role": "user", "content": "x"}]}),
        )
    ]
    assert found[0] == found[1]
    return found[0]


def refusal(**fields: Any) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        constraint(**fields)
    return caught.value


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_json": SCHEMA}, "guided_json"),
        ({"guided_json": json.dumps(SCHEMA)}, "guided_json"),
        ({"structured_outputs": {"json": SCHEMA}}, "structured_outputs.json"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": SCHEMA, "strict": True},
                }
            },
            "response_format.json_schema.schema",
        ),
    ],
)
def test_every_way_to_send_a_schema_makes_the_same_grammar(fields: dict[str, Any], param: str) -> None:
    found = constraint(**fields)
    assert found is not None
    assert found.param == param
    assert found.spec.kind is GrammarKind.JSON_SCHEMA
    assert json.loads(found.spec.source) == CLOSED
    assert found.spec.backend is GrammarBackend.AUTO


@pytest.mark.parametrize(
    ("fields", "kind", "source"),
    [
        ({"response_format": {"type": "json_object"}}, GrammarKind.JSON_SCHEMA, '{"type": "object"}'),
        ({"structured_outputs": {"json_object": True}}, GrammarKind.JSON_SCHEMA, '{"type": "object"}'),
        ({"guided_regex": "a+"}, GrammarKind.REGEX, "a+"),
        ({"structured_outputs": {"regex": "a+"}}, GrammarKind.REGEX, "a+"),
        ({"guided_choice": ["é", "b", "é"]}, GrammarKind.CHOICE, '["é", "b"]'),
        ({"structured_outputs": {"choice": ["a"]}}, GrammarKind.CHOICE, '["a"]'),
        ({"guided_grammar": 'root ::= "a"'}, GrammarKind.EBNF, 'root ::= "a"'),
        ({"guided_grammar": 'start: "a"'}, GrammarKind.LARK, 'start: "a"'),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, GrammarKind.LARK, 'start: "a"'),
    ],
)
def test_every_kind_has_its_source(fields: dict[str, Any], kind: GrammarKind, source: str) -> None:
    found = constraint(**fields)
    assert found is not None
    assert (found.spec.kind, found.spec.source) == (kind, source)


@pytest.mark.parametrize("fields", [{"response_format": {"type": "text"}}, {"guided_decoding_backend": "xgrammar"}, {}])
def test_nothing_is_constrained_without_a_constraint(fields: dict[str, Any]) -> None:
    assert constraint(**fields) is None


def test_text_as_response_format_goes_with_any_constraint() -> None:
    assert constraint(response_format={"type": "text"}, guided_regex="a") is not None


def test_old_structural_tags_become_new_ones() -> None:
    for tag in (TAG, OLD_TAG):
        for fields in ({"response_format": tag}, {"structured_outputs": {"structural_tag": json.dumps(tag)}}):
            found = constraint(**fields)
            assert found is not None
            assert (found.spec.kind, found.spec.backend) == (GrammarKind.STRUCTURAL_TAG, GrammarBackend.XGRAMMAR)
            assert set(json.loads(found.spec.source)) == {"type", "format"}


def test_what_xgrammar_does_not_enforce_goes_to_guidance_or_is_refused() -> None:
    found = constraint(guided_json=NOT_EXACT)
    assert found is not None
    assert found.spec.backend is GrammarBackend.GUIDANCE
    error = refusal(guided_json=NOT_EXACT, guided_decoding_backend="xgrammar")
    assert error.param == "guided_json"
    assert "does not enforce properties.a.maxLength" in error.message
    assert "guided_regex" in str(refusal(guided_regex="(?i)a", guided_decoding_backend="auto:no-fallback"))
    pattern = constraint(guided_json=SCHEMA, guided_whitespace_pattern=" ?")
    assert pattern is not None
    assert (pattern.spec.backend, pattern.spec.whitespace) == (GrammarBackend.GUIDANCE, " ?")


def test_backend_options_are_read() -> None:
    found = constraint(guided_json=SCHEMA, guided_decoding_backend="guidance:disable-any-whitespace")
    assert found is not None
    assert (found.spec.backend, found.spec.compact) == (GrammarBackend.GUIDANCE, True)
    same = constraint(structured_outputs={"json": SCHEMA, "disable_any_whitespace": True})
    assert same is not None
    assert same.spec.compact


@pytest.mark.parametrize("name", ["outlines", "lm-format-enforcer", "x"])
def test_a_backend_that_is_not_there_is_refused_with_those_that_are(name: str) -> None:
    error = refusal(guided_json=SCHEMA, guided_decoding_backend=name)
    assert error.param == "guided_decoding_backend"
    assert "auto, xgrammar or guidance" in error.message
    assert (f"its workers need headrace[{name}]" in error.message) is (name != "x")


def test_the_worker_learns_what_asked_for_a_grammar_and_shares_it_with_others() -> None:
    by_regex, by_object = (
        constraint(guided_regex="a"),
        constraint(structured_outputs={"regex": "a"}),
    )
    assert by_regex is not None
    assert by_object is not None
    assert (by_regex.told.asked_as, by_object.told.asked_as) == ("guided_regex", "structured_outputs.regex")
    assert by_regex.told.digest == by_object.told.digest == by_regex.spec.digest


def test_objects_are_closed_only_where_that_takes_nothing_away() -> None:
    part = {"type": "object", "properties": {"a": {"type": "integer"}}}
    for schema, closes in (
        ({"$ref": "#/$defs/p", "$defs": {"p": part}}, True),
        ({"anyOf": [part, {"type": "null"}]}, True),
        ({"allOf": [part, {"type": "object", "properties": {"b": {}}}]}, False),
        ({"type": "object", "properties": {"b": {}}, "anyOf": [part]}, False),
    ):
        found = constraint(guided_json=schema)
        assert found is not None
        assert ("additionalProperties" in found.spec.source) is closes
    forced = constraint(structured_outputs={"json": {"allOf": [part, part]}, "disable_additional_properties": True})
    assert forced is not None
    assert forced.spec.source.count("additionalProperties") == 2


def test_formats_that_nobody_has_defined_are_remarks() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "format": "password"}}}
    found = constraint(guided_json=schema)
    assert found is not None
    assert "password" not in found.spec.source


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"guided_json": "{"}, "not valid JSON"),
        ({"guided_json": "[]"}, "should be a JSON object"),
        ({"guided_regex": "a\0"}, "NUL"),
        ({"structured_outputs": {"structural_tag": {"format": {"type": "nope"}}}}, "whose type is one of"),
        ({"structured_outputs": {"structural_tag": {}}}, "should have a format"),
        ({"structured_outputs": {"structural_tag": {"structures": [{}], "triggers": ["a"]}}}, "structures[0]"),
        ({"response_format": {**TAG, "format": {**TAG["format"], "content": {"type": "json_schema", "json_schema": NOT_EXACT}}}}, "format.content.json_schema: properties.a.maxLength"),  # type: ignore[dict-item]
        ({"response_format": TAG, "guided_decoding_backend": "guidance"}, "knows no structural tags"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_name(fields: dict[str, Any], words: str) -> None:
    error = refusal(**fields)
    assert words in error.message
    assert error.param
    assert error.param.partition(".")[0] in fields


def test_a_schema_nested_too_deep_is_refused() -> None:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(70):
        schema = {"type": "array", "items": schema}
    assert "more than 64 deep" in refusal(guided_json=schema).message


def test_the_request_itself_is_not_changed() -> None:
    body = CompletionRequest.parse(json.dumps({"prompt": "x", "guided_json": SCHEMA}).encode())
    constraint_of(body, BACKENDS)
    assert body.guided_json == SCHEMA


@pytest.mark.parametrize("asked", [None, "auto", "auto:no-fallback", "guidance"])
def test_the_only_backend_that_workers_have_is_taken(asked: str | None) -> None:
    body = {"guided_regex": "a", "prompt": "x", "guided_decoding_backend": asked}
    constraint = constraint_of(CompletionRequest.parse(json.dumps(body).encode()), ("guidance",))
    assert constraint is not None
    assert constraint.spec.backend == "guidance"


def test_a_backend_that_workers_do_not_have_is_refused() -> None:
    body = {"guided_regex": "a", "prompt": "x", "guided_decoding_backend": "xgrammar"}
    with pytest.raises(InvalidRequestError, match="should be auto or guidance on this server"):
        constraint_of(CompletionRequest.parse(json.dumps(body).encode()), ("guidance",))


def test_a_backend_that_only_newer_workers_know_is_left_alone() -> None:
    body = CompletionRequest.parse(b'{"guided_regex": "a", "prompt": "x"}')
    constraint = constraint_of(body, ("newer", "guidance"))
    assert constraint is not None
    assert constraint.spec.backend == "guidance"
