"""Real models behind real processes: answers that follow a schema, also across the loss of a worker."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest
from constrained import save_served_model
from fleet import ApiProcess, Fleet, fleet_on
from worker_process import WorkerProcess

from headrace_cli.embedded_redis import EmbeddedRedis

MODEL = "constrained"
SCHEMA: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "maxItems": 2,
    "items": {
        "type": "object",
        "properties": {"id": {"type": "integer", "minimum": 1000, "maximum": 9999}, "kind": {"enum": ["cat", "dog"]}},
        "required": ["id", "kind"],
    },
}
HELLO = [{"role": "user", "content": "hello"}]

COMPACT = "auto:disable-any-whitespace"
WORKERS: list[WorkerProcess] = []

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_served_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with EmbeddedRedis(tmp_path_factory.mktemp("valkey")) as server, fleet_on(server.url) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def api(system: Fleet, folder: Path) -> ApiProcess:
    _worker(system, folder)
    node = system.api(no_worker_grace_s=90)
    node.wait_until_ready()
    return node


def _worker(system: Fleet, folder: Path) -> None:
    settings = {
        "engine": "torch",
        "device": "cpu",
        "threads": 1,
        "kv_cache_memory": "64MiB",
        "tool_call_parser": "hermes",
    }
    WORKERS.append(system.worker(model=str(folder), served_model_name=MODEL, **settings))


def _ask(api: ApiProcess, **fields: object) -> str:
    answer = api.client().chat.completions.create(
        model=MODEL,
        messages=HELLO,
        max_tokens=900,
        seed=4,
        extra_body=fields,  # type: ignore[arg-type]
    )
    assert answer.choices[0].finish_reason == "stop"
    return answer.choices[0].message.content or ""


def test_every_kind_of_constraint_holds(api: ApiProcess) -> None:
    wrapped = {"type": "json_schema", "json_schema": {"name": "pets", "schema": SCHEMA, "strict": True}}
    for fields in ({"response_format": wrapped}, {"guided_json": SCHEMA, "guided_decoding_backend": "guidance"}):
        jsonschema.validate(json.loads(_ask(api, **fields)), SCHEMA)
    assert _ask(api, guided_choice=["yes", "no"]) in ("yes", "no")
    assert len(_ask(api, guided_regex="[0-9]{5}")) == 5
    assert _ask(api, guided_grammar='root ::= "a" "b"') == "ab"


def test_forced_calls_obey_their_schemas_streamed_and_whole(api: ApiProcess) -> None:
    tools: list[Any] = [
        {"type": "function", "function": {"name": "pets", "parameters": SCHEMA["items"]}},
        {"type": "function", "function": {"name": "now"}},
    ]
    named = {"type": "function", "function": {"name": "pets"}}
    for choice, parallel in (("required", True), ("required", False), (named, True)):
        asked: Any = {
            "model": MODEL,
            "messages": HELLO,
            "max_tokens": 900,
            "seed": 4,
            "tools": tools,
            "tool_choice": choice,
            "parallel_tool_calls": parallel,
        }
        [whole] = api.client().chat.completions.create(**asked).choices
        assert whole.finish_reason == ("stop" if choice is named else "tool_calls")
        assert whole.message.content == ("" if choice is named else None)
        told = [call.function for call in whole.message.tool_calls or [] if call.type == "function"]
        assert told
        assert len(told) == 1 or parallel
        for function in told:
            schema = SCHEMA["items"] if function.name == "pets" else {"type": "object", "maxProperties": 0}
            jsonschema.validate(json.loads(function.arguments), schema)
        with api.client().chat.completions.stream(**asked) as stream:
            [streamed] = stream.get_final_completion().choices
        assert [call.function.arguments for call in streamed.message.tool_calls or []] == [
            function.arguments for function in told
        ]


def test_what_only_a_worker_finds_out_is_refused_too(api: ApiProcess) -> None:
    tag = {"type": "structural_tag", "format": {"type": "tag", "begin": "<a>"}}
    with pytest.raises(openai.BadRequestError) as caught:
        _ask(api, response_format=tag)
    assert caught.value.param == "response_format"


def test_an_answer_goes_on_when_its_worker_is_lost(system: Fleet, api: ApiProcess, folder: Path) -> None:
    wish = {"guided_json": {**SCHEMA, "minItems": 10, "maxItems": 12}, "guided_decoding_backend": COMPACT}
    whole = _ask(api, **wish)
    chunks = api.client().chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=900, seed=4, stream=True, extra_body=wish  # type: ignore[arg-type]
    )  # fmt: skip
    text, killed_s = "", 0.0
    for number, chunk in enumerate(chunks):
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        if number == 5:
            killed_s = time.monotonic()
            WORKERS.pop().kill()
            _worker(system, folder)
    assert text == whole
    # The rest came from the new worker, which needs a while to load its model.
    assert time.monotonic() - killed_s > 1
