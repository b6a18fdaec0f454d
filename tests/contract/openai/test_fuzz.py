"""Whatever the document allows, and much that it does not, is answered as the document says: never with a 500."""

import asyncio
import os
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from live_api import Api
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from scripted_worker import ScriptedWorker

from headrace_api.app import create_app
from headrace_api.settings import ApiSettings

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("HEADRACE_FUZZ_EXAMPLES", "8"))
"""For each operation and kind of request; ``make fuzz`` asks for more, and for others each time."""
_MOST_PATIENCE_S = 20
_HI = [{"role": "user", "content": "hi"}]
BASES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": _HI},
    "/v1/completions": {"prompt": "hi"},
    "/invocations": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": _HI, "max_tokens": 3},
    "/v1/messages/count_tokens": {"messages": _HI},
    "/v1/chat/completions/render": {"messages": _HI},
    "/v1/completions/render": {"prompt": "hi"},
    "/v1/responses/render": {"input": "hi"},
    "/v1/messages/render": {"messages": _HI, "max_tokens": 3},
    "/v1/batches": {"input_file_id": "file-1", "endpoint": "/v1/completions", "completion_window": "24h"},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [1]},
}
"""Bodies that are answered, to add fields to."""


def operations() -> Iterator[str]:
    for path, methods in create_app(ApiSettings()).openapi()["paths"].items():
        yield from (f"{method.upper()} {path}" for method in methods)


@pytest.mark.timeout(60 + EXAMPLES * 10)
@pytest.mark.parametrize("label", list(operations()))
async def test_every_generated_request_is_answered_as_documented(api: Api, worker: ScriptedWorker, label: str) -> None:
    answered = await api.http.post("/v1/completions", json=BASES["/v1/completions"])
    response = await api.http.post("/v1/responses", json=BASES["/v1/responses"])
    form = {"purpose": "batch"}
    file = (await api.http.post("/v1/files", files={"file": ("a.jsonl", b"{}")}, data=form)).json()
    asked = BASES["/v1/batches"] | {"input_file_id": file["id"]}
    known = {
        "file_id": file["id"],
        # Nobody works on it, so its events would never end.
        "batch_id": "-" if label.endswith("/events") else (await api.http.post("/v1/batches", json=asked)).json()["id"],
        "model": "tiny",
        "model_id": "tiny",
        "request_id": answered.headers["x-headrace-request-id"],
        "response_id": response.json()["id"],
    }
    await asyncio.to_thread(_fuzz, api.base_url, label, known)


def _fuzz(base_url: str, label: str, known: Mapping[str, str]) -> None:
    document = schemathesis.openapi.from_url(f"{base_url}/openapi.json")
    [operation] = [
        found
        for result in document.get_all_operations()
        if isinstance(result, Ok) and (found := result.ok()).label == label
    ]
    for mode in GenerationMode:
        _try(operation, mode, known)


def _try(operation: Any, mode: GenerationMode, known: Mapping[str, str]) -> None:
    documented = {str(status) for status in operation.definition.raw["responses"]}

    @given(case=operation.as_strategy(generation_mode=mode), data=st.data())
    @settings(
        max_examples=EXAMPLES,
        derandomize="HEADRACE_FUZZ_EXAMPLES" not in os.environ,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def answered(case: "schemathesis.Case[Any]", data: st.DataObject) -> None:
        if mode.is_positive:
            _narrow(case, data, known)
        _check(case, documented)

    answered()


def _narrow(case: "schemathesis.Case[Any]", data: st.DataObject, known: Mapping[str, str]) -> None:
    """Half of the requests are about something that is there, and have few fields besides those that are needed.

    All fields at once contradict each other, and would never get further than the first check.
    """
    if not data.draw(st.booleans()):
        return
    for name in known.keys() & (case.path_parameters or {}).keys():
        case.path_parameters[name] = known[name]
    base = BASES.get(case.operation.path)
    if base is not None and isinstance(case.body, dict):
        kept = data.draw(st.sets(st.sampled_from(sorted({*case.body} - {*base}) or ["model"]), max_size=3))
        case.body = {**base, **{name: case.body[name] for name in kept if name in case.body}}


def _check(case: "schemathesis.Case[Any]", documented: set[str]) -> None:
    if isinstance(case.body, dict):
        case.body.pop("model", None)  # a random name would end every request at the first check
    response = case.call(timeout=_MOST_PATIENCE_S)
    status = response.status_code
    # The middleware looks at every request's id, and a path that was made up need not be one of ours.
    anyone = {"400", "404", "405"} if case.meta and case.meta.generation.mode.is_negative else {"400"}
    assert str(status) in documented | anyone, (status, case.headers, case.body, response.text)
    assert status < 500 or (status == 504 and _is_impatient(case)), (case.headers, case.body, response.text)
    assert response.headers["x-request-id"]
    if status >= 400:
        anthropic = case.operation.path.startswith("/v1/messages")
        fields = {"message", "type"} if anthropic else {"message", "type", "param", "code"}
        assert set(response.json()["error"]) == fields


def _is_impatient(case: "schemathesis.Case[Any]") -> bool:
    """A generated timeout can be shorter than any answer takes."""
    in_body = isinstance(case.body, dict) and "timeout" in case.body
    return in_body or "X-Request-Timeout" in (case.headers or {})
