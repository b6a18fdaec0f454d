"""A form of the answer, asked for over HTTP: what the worker is told, and what never reaches it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from live_api import Api, running_api
from pydantic import BaseModel
from scripted_worker import ScriptedWorker, running_worker

from headrace_shared.protocol.grammar import GrammarBackend, GrammarKind

HI: Any = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.fixture
async def worker(valkey_url: str) -> AsyncIterator[ScriptedWorker]:
    async with running_worker(valkey_url, grammar_backends=("xgrammar", "guidance")) as worker:
        yield worker


@pytest.fixture
async def api(valkey_url: str, worker: ScriptedWorker) -> AsyncIterator[Api]:
    async with running_api(valkey_url) as api:
        yield api


async def test_the_sdk_sends_a_model_as_a_schema(api: Api, worker: ScriptedWorker) -> None:
    class Person(BaseModel):
        name: str
        age: int

    with pytest.raises(openai.LengthFinishReasonError):
        await api.sdk.chat.completions.parse(model="tiny", messages=HI, response_format=Person, max_tokens=2)
    grammar = worker.jobs[0].sampling.grammar
    assert grammar is not None
    assert grammar.kind is GrammarKind.JSON_SCHEMA
    assert '"required": ["name", "age"]' in grammar.source


async def test_both_endpoints_and_every_prompt_carry_the_grammar(api: Api, worker: ScriptedWorker) -> None:
    await api.sdk.completions.create(model="tiny", prompt=["a", "b"], extra_body={"guided_regex": "(?i)yes"})
    await api.sdk.chat.completions.create(
        model="tiny", messages=HI, extra_body={"structured_outputs": {"choice": ["a", "b"]}}
    )
    kinds = [(job.sampling.grammar.kind, job.sampling.grammar.backend) for job in worker.jobs if job.sampling.grammar]
    assert kinds == [(GrammarKind.REGEX, GrammarBackend.GUIDANCE)] * 2 + [(GrammarKind.CHOICE, GrammarBackend.AUTO)]


async def test_what_does_not_compile_never_reaches_a_worker(api: Api, worker: ScriptedWorker) -> None:
    for stream in (False, True):
        response = await api.http.post(
            "/v1/chat/completions",
            json={
                "messages": HI,
                "stream": stream,
                "guided_json": {"type": "object", "properties": {"a": {"not": {}}}},
            },
        )
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["param"] == "guided_json"
        assert "at properties.a" in error["message"]
    assert worker.jobs == []


async def test_unknown_fields_inside_are_named(api: Api) -> None:
    body = {"prompt": "a", "structured_outputs": {"regex": "a", "later": 1}}
    response = await api.http.post("/v1/completions", json=body)
    assert response.status_code == 200
    assert response.headers["X-Headrace-Unknown-Fields"] == "structured_outputs.later"


async def test_requests_with_schemas_are_served_side_by_side(api: Api, worker: ScriptedWorker) -> None:
    schemas = [{**SCHEMA, "title": str(number)} for number in range(20)]
    await asyncio.gather(
        *(
            api.sdk.completions.create(model="tiny", prompt="a", extra_body={"guided_json": schema})
            for schema in schemas
        )
    )
    assert len({job.sampling.grammar for job in worker.jobs}) == 20
