"""Whatever the document allows, and much that it does not, is answered: never with a 500."""

import asyncio
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from live_api import Api
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from scripted_worker import ScriptedWorker

pytestmark = pytest.mark.slow

OPERATIONS = [
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/responses",
    "GET /v1/responses/{response_id}",
    "DELETE /v1/responses/{response_id}",
    "POST /v1/responses/{response_id}/cancel",
    "GET /v1/responses/{response_id}/input_items",
    "POST /v1/responses/render",
    "POST /v1/messages",
    "POST /v1/messages/count_tokens",
    "POST /tokenize",
    "POST /detokenize",
    "GET /v1/models/{model_id}",
    "GET /v1/requests/{request_id}",
    "GET /v1/requests/{request_id}/stream",
    "POST /v1/requests/{request_id}/cancel",
    "GET /autoscale/{model}",
]


@pytest.mark.parametrize("label", OPERATIONS)
async def test_no_generated_request_makes_the_server_fail(api: Api, worker: ScriptedWorker, label: str) -> None:
    await asyncio.to_thread(_fuzz, api.base_url, label)


def _fuzz(base_url: str, label: str) -> None:
    document = schemathesis.openapi.from_url(f"{base_url}/openapi.json")
    [operation] = [
        found
        for result in document.get_all_operations()
        if isinstance(result, Ok) and (found := result.ok()).label == label
    ]
    modes = list(GenerationMode) if list(operation.body) else [GenerationMode.POSITIVE]
    for mode in modes:

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=40,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def answered(case: "schemathesis.Case[Any]") -> None:
            if isinstance(case.body, dict):
                case.body.pop("model", None)  # a random name would end every request at the first check
            response = case.call(timeout=20)
            # A generated timeout can be shorter than any answer takes.
            late = response.status_code == 504 and isinstance(case.body, dict) and "timeout" in case.body
            assert late or response.status_code < 500, (case.body, response.text)
            assert response.headers["x-request-id"]
            if response.status_code >= 400:
                fields = {"message", "type"} if "/v1/messages" in label else {"message", "type", "param", "code"}
                assert set(response.json()["error"]) == fields

        answered()
