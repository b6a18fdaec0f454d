"""What does not compile is known, with its place, before anything is queued."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from json_schemas import CASES

from headrace_api.grammar.check import GrammarChecker
from headrace_api.grammar.translate import constraint_of
from headrace_api.schemas.completions import CompletionRequest
from headrace_shared.errors import InvalidRequestError


@pytest.fixture
async def checker() -> AsyncIterator[GrammarChecker]:
    made = GrammarChecker(most_bytes=20_000, timeout_s=5)
    yield made
    made.close()


async def check(checker: GrammarChecker, **fields: Any) -> None:
    body = CompletionRequest.parse(json.dumps({"prompt": "x", **fields}).encode())
    constraint = constraint_of(body, ("xgrammar", "guidance"))
    assert constraint is not None
    await checker.check(constraint)


async def test_all_good_schemas_pass(checker: GrammarChecker) -> None:
    for schema in CASES.values():
        await check(checker, guided_json=schema)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"guided_regex": "(ab"}, "guided_regex", "unclosed group"),
        ({"guided_regex": r"(a)\1"}, "guided_regex", "backreferences are not supported"),
        ({"guided_regex": "a(?=b)"}, "guided_regex", "look-around"),
        ({"guided_grammar": 'root ::= "a" other'}, "guided_grammar", "Rule 'other' not found"),
        ({"guided_grammar": 'root ::= "a" ('}, "guided_grammar", "line 1"),
        ({"guided_grammar": "start: other"}, "guided_grammar", 'unknown name: "other"'),
        ({"guided_json": {"type": "strange"}}, "guided_json", "Invalid type: strange"),
        (
            {"guided_json": {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "strange"}}}}},
            "guided_json",
            "at properties.a.items: Invalid type: strange",
        ),
        (
            {"guided_json": {"type": "object", "properties": {"xs": {"type": "array", "uniqueItems": True}}}},
            "guided_json",
            'at properties.xs: Unimplemented keys: ["uniqueItems"]',
        ),
        ({"guided_json": {"$defs": {"a": {"not": {}}}, "$ref": "#/$defs/a"}}, "guided_json", "not"),
        ({"guided_json": {"type": "integer", "minimum": 5, "maximum": 3}}, "guided_json", "minimum (5) is greater"),
        ({"guided_json": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}, "guided_json", "oneOf"),
        ({"guided_json": {"$ref": "#/$defs/nowhere"}}, "guided_json", "'/$defs/nowhere' does not exist"),
        ({"guided_json": {"$ref": "http://a.example/b"}}, "guided_json", "http://a.example/b"),
        ({"guided_json": {"type": "string", "format": "iri"}}, "guided_json", "Unknown format: iri"),
        ({"guided_json": {}, "guided_whitespace_pattern": "("}, "guided_whitespace_pattern", "unclosed group"),
        (
            {"structured_outputs": {"structural_tag": {"format": {"type": "regex", "pattern": "("}}}},
            "structured_outputs.structural_tag",
            "format: is not a regular expression",
        ),
        ({"guided_regex": "a" * 20_001}, "guided_regex", "at most 20000 bytes, got 20001"),
    ],
)
async def test_a_grammar_that_does_not_compile_is_refused(
    checker: GrammarChecker, fields: dict[str, Any], param: str, words: str
) -> None:
    for _ in range(2):
        with pytest.raises(InvalidRequestError) as caught:
            await check(checker, **fields)
        assert caught.value.param == param
        assert words in caught.value.message
        assert "\n" not in caught.value.message


async def test_a_grammar_that_takes_too_long_is_refused_and_nobody_waits() -> None:
    checker = GrammarChecker(most_bytes=10_000_000, timeout_s=0.02)
    properties = {f"p{number}": {"type": "string", "pattern": f"^[a-z]{{1,{number + 1}}}$"} for number in range(3000)}
    longest, begin = 0.0, asyncio.get_running_loop().time()
    task = asyncio.create_task(check(checker, guided_json={"type": "object", "properties": properties}))
    while not task.done():
        await asyncio.sleep(0)
        now = asyncio.get_running_loop().time()
        longest, begin = max(longest, now - begin), now
    with pytest.raises(InvalidRequestError, match="takes too long"):
        await task
    assert longest < 1
    checker.close()
