"""Workers that guess ahead, through HTTP: whatever is asked for, the same answers as from one that does not."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from constrained import save_served_model
from fleet import ApiProcess, Fleet, fleet_on, wait_until
from ports import free_port
from worker_process import WorkerProcess

from headrace_cli.embedded_redis import EmbeddedRedis

MODEL = "guessed"
SCHEMA: dict[str, Any] = {
    "type": "array",
    "minItems": 2,
    "maxItems": 3,
    "items": {
        "type": "object",
        "properties": {"id": {"type": "integer", "minimum": 1000, "maximum": 9999}, "kind": {"enum": ["cat", "dog"]}},
        "required": ["id", "kind"],
    },
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "pets", "schema": SCHEMA, "strict": True}}
COMPACT = {"guided_json": SCHEMA, "guided_decoding_backend": "guidance:disable-any-whitespace"}
ASKED: list[dict[str, Any]] = [
    {"response_format": FORMAT},
    COMPACT,
    {"response_format": FORMAT, "temperature": 0, "logprobs": True, "top_logprobs": 2},
    {"max_tokens": 37, "n": 2, "logprobs": True, "top_logprobs": 1},
    {"max_tokens": 50, "frequency_penalty": 0.5, "min_p": 0.02, "logit_bias": {"40": 2}},
    {"max_tokens": 60, "temperature": 0},
    {"max_tokens": 40, "min_tokens": 30, "top_k": 20},
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_served_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with EmbeddedRedis(tmp_path_factory.mktemp("valkey")) as server, fleet_on(server.url) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def api(system: Fleet) -> ApiProcess:
    node = system.api(no_worker_grace_s=90)
    # Requests wait for a worker by themselves.
    wait_until(lambda: listens(node), "the API node listens")
    return node


def listens(node: ApiProcess) -> bool:
    try:
        return httpx.get(f"{node.url}/ping").is_success
    except httpx.HTTPError:
        return False


def start(system: Fleet, folder: Path, metrics_port: int = 0, **speculation: object) -> WorkerProcess:
    """A worker of the model, with a JSON for its guesses when there is one."""
    asked = {"speculative_config": json.dumps(speculation)} if speculation else {}
    return system.worker(
        model=str(folder),
        served_model_name=MODEL,
        engine="torch",
        device="cpu",
        threads=1,
        kv_cache_memory="64MiB",
        metrics_port=metrics_port,
        **asked,
    )


def end(worker: WorkerProcess, api: ApiProcess) -> None:
    """Only when it is forgotten as well is the next one waited for."""
    worker.kill()
    wait_until(lambda: not api.serves(1, 1), "the API node has forgotten the worker")


def ask(api: ApiProcess, **fields: Any) -> dict[str, Any]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 900, "seed": 4, **fields}
    answer = httpx.post(f"{api.url}/v1/chat/completions", json=body, timeout=100)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return {"choices": found["choices"], "tokens": found["usage"]["completion_tokens"]}


def stream(api: ApiProcess, **fields: Any) -> Iterator[dict[str, Any]]:
    """Its chunks."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 900, "seed": 4, **fields}
    with httpx.stream("POST", f"{api.url}/v1/chat/completions", json=body | {"stream": True}, timeout=100) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))


def text_of(chunks: Iterator[dict[str, Any]]) -> str:
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])


def with_stop(answer: dict[str, Any]) -> dict[str, Any]:
    """A stop string from the middle of an answer."""
    text = answer["choices"][0]["message"]["content"]
    return {"max_tokens": 60, "temperature": 0, "stop": [text[len(text) // 2 :][:3]]}


@pytest.fixture(scope="module")
def plain(system: Fleet, folder: Path, api: ApiProcess) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What is asked, and what a worker without guesses says."""
    worker = start(system, folder)
    api.wait_until_ready(timeout_s=90)
    answers = [(fields, ask(api, **fields)) for fields in ASKED]
    stopped = with_stop(answers[5][1])
    answers.append((stopped, ask(api, **stopped)))
    assert answers[-1][1]["choices"][0]["finish_reason"] == "stop"
    assert answers[-1][1]["tokens"] < 60
    end(worker, api)
    return answers


def accepted(metrics_port: int) -> float:
    """Guesses that were right, by the worker that shows its metrics there."""
    text = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text
    name = "vllm:spec_decode_num_accepted_tokens_total"
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


@pytest.mark.parametrize("method", ["draft_model", "suffix", "ngram"])
def test_answers_are_those_of_a_worker_that_does_not_guess(
    method: str,
    system: Fleet,
    folder: Path,
    api: ApiProcess,
    plain: list[tuple[dict[str, Any], dict[str, Any]]],
) -> None:
    speculation: dict[str, dict[str, object]] = {
        "draft_model": {"model": str(folder), "num_speculative_tokens": 4, "disable_by_batch_size": 100},
        "suffix": {"method": "suffix", "disable_by_batch_size": 100},
        "ngram": {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1, "prompt_lookup_max": 3},
    }
    port, interval = free_port(), 1 if method == "draft_model" else 3
    worker = start(system, folder, port, **speculation[method])
    try:
        api.wait_until_ready(timeout_s=90)
        for fields, answer in plain:
            assert ask(api, **fields) == answer
            text = answer["choices"][0]["message"]["content"]
            if "n" not in fields:
                assert text_of(stream(api, **fields, stream_interval=interval)) == text
            if "response_format" in fields or "guided_json" in fields:
                jsonschema.validate(json.loads(text), SCHEMA)
        assert accepted(port) > (100 if method != "ngram" else 0)
    finally:
        end(worker, api)


def test_an_answer_goes_on_when_its_guessing_worker_is_lost(system: Fleet, folder: Path, api: ApiProcess) -> None:
    """The successor does not guess."""
    wish = {**COMPACT, "guided_json": {**SCHEMA, "minItems": 10, "maxItems": 12}}
    lost = start(system, folder, model=str(folder), num_speculative_tokens=2, disable_by_batch_size=100)
    api.wait_until_ready(timeout_s=90)
    whole = ask(api, **wish)["choices"][0]["message"]["content"]
    jsonschema.validate(json.loads(whole), wish["guided_json"])
    text, killed_s = "", 0.0
    for number, chunk in enumerate(stream(api, **wish)):
        text += (chunk["choices"][0]["delta"].get("content") or "") if chunk["choices"] else ""
        if number == 5:
            killed_s = time.monotonic()
            lost.kill()
            start(system, folder)
    assert text == whole
    # The rest came from the new worker, which needs a while to load its model.
    assert time.monotonic() - killed_s > 1
