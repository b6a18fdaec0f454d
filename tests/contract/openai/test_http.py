"""Around the endpoints: keys, ids, sizes, methods, probes, documents."""

import json
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from eventually import eventually
from live_api import Api, running_api
from scripted_worker import ScriptedWorker

HI = {"messages": [{"role": "user", "content": "hi"}]}
OPEN = ("/health", "/ready", "/version", "/ping", "/metrics")
GUARDED = ("/v1/models", "/v1/models/tiny", "/docs", "/redoc", "/openapi.json", "/nothing", "/health/../v1/models", "/")


def error_of(response: httpx.Response) -> dict[str, object]:
    error: dict[str, object] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


async def test_without_a_key_only_probes_are_open(valkey_url: str, worker: ScriptedWorker) -> None:
    async with running_api(valkey_url, api_keys="one, two") as api:
        for path in OPEN:
            assert (await api.http.get(path)).status_code == 200, path
        for path in GUARDED:
            response = await api.http.get(path)
            assert response.status_code == 401, path
            assert error_of(response)["code"] == "invalid_api_key"
            assert response.headers["www-authenticate"] == "Bearer"
            assert "x-request-id" in response.headers
        for path in ("/v1/chat/completions", "/v1/completions", "/invocations", "/tokenize", "/detokenize"):
            assert (await api.http.post(path, json=HI)).status_code == 401, path


async def test_any_of_several_keys_opens(valkey_url: str, worker: ScriptedWorker) -> None:
    statuses = {
        "Bearer one": 200,
        "bearer two": 200,
        "Bearer three": 401,
        "Bearer": 401,
        "Basic one": 401,
        "one": 401,
        "Bearer oné": 401,
    }
    async with running_api(valkey_url, api_keys="one, two") as api:
        for header, status in statuses.items():
            response = await api.http.get("/v1/models", headers=[(b"authorization", header.encode())])
            assert response.status_code == status, header


@pytest.mark.parametrize("prefix", ["", "/llm"])
async def test_a_root_path_may_be_there_or_not_and_changes_nothing_about_keys(
    valkey_url: str, worker: ScriptedWorker, prefix: str
) -> None:
    async with running_api(valkey_url, api_keys="one", root_path="/llm") as api:
        assert (await api.http.get(f"{prefix}/health")).status_code == 200
        assert (await api.http.get(f"{prefix}/v1/models")).status_code == 401
        assert (await api.http.get(f"{prefix}{prefix}/nothing")).status_code == 401
        key = {"Authorization": "Bearer one"}
        listed = await api.http.get(f"{prefix}/v1/models", headers=key)
        assert listed.json()["data"][0]["id"] == "tiny"
        document = (await api.http.get(f"{prefix}/openapi.json", headers=key)).json()
        assert document["servers"] == [{"url": "/llm"}]


async def test_every_answer_carries_a_request_id(api: Api) -> None:
    assert len((await api.http.get("/health")).headers["x-request-id"]) == 32
    response = await api.http.get("/nowhere", headers={"X-Request-Id": "a.b:c-1"})
    assert response.headers["x-request-id"] == "a.b:c-1"
    assert len((await api.http.get("/health", headers={"X-Request-Id": ""})).headers["x-request-id"]) == 32


@pytest.mark.parametrize("request_id", [b"job 7/{a,b}", b"x" * 512, "é".encode("latin-1"), b"../..", b"a%0d%0aB: c"])
async def test_any_printable_request_id_is_echoed_and_made_safe_in_our_own(api: Api, request_id: bytes) -> None:
    headers = [(b"x-request-id", request_id)]
    response = await api.http.post("/v1/completions", json={"prompt": "hi"}, headers=headers)
    assert response.status_code == 200
    echoed = next(value for name, value in response.headers.raw if name.lower() == b"x-request-id")
    assert echoed == request_id
    ours = response.headers["x-headrace-request-id"]
    assert re.fullmatch(r"[A-Za-z0-9._:-]{1,128}-[0-9a-f]{8}", ours)
    assert response.json()["id"] == f"cmpl-{ours}"
    assert (await api.http.get(f"/v1/requests/{ours}/stream")).status_code == 200


async def test_a_bad_request_id_is_refused(api: Api) -> None:
    for request_id in (b"a\tb", b"x" * 513, b"\xa0\xad"):
        response = await api.http.get("/v1/models", headers=[(b"x-request-id", request_id)])
        assert response.status_code == 400
        assert error_of(response)["param"] == "X-Request-Id"


async def test_unknown_paths_and_wrong_methods_are_told_as_errors(api: Api) -> None:
    assert error_of(await api.http.get("/v1/nothing"))["code"] == "not_found"
    response = await api.http.get("/v1/chat/completions")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert error_of(response)["code"] == "method_not_allowed"


async def test_a_body_that_is_not_called_json_is_415(api: Api) -> None:
    for content_type in (None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        headers = {"Content-Type": content_type} if content_type else {}
        response = await api.http.post("/v1/chat/completions", content=json.dumps(HI), headers=headers)
        assert response.status_code == 415
        assert error_of(response)["code"] == "unsupported_media_type"


async def test_every_spelling_of_json_is_taken(api: Api) -> None:
    for content_type in ("application/json", "Application/JSON; charset=utf-8", "application/problem+json"):
        headers = {"Content-Type": content_type}
        response = await api.http.post("/v1/chat/completions", content=json.dumps(HI), headers=headers)
        assert response.status_code == 200


async def test_a_body_that_is_no_json_is_400(api: Api) -> None:
    lone_surrogate = b'{"messages": "\\ud800"}'
    for body in (b"", b"{", b"nonsense", b'{"a": NaN}', b'{"messages": "\xff"}', lone_surrogate, b"[" * 100_000):
        headers = {"Content-Type": "application/json"}
        response = await api.http.post("/v1/chat/completions", content=body, headers=headers)
        assert response.status_code == 400
        assert "not valid JSON" in str(error_of(response)["message"])


async def test_a_body_that_is_no_object_is_400(api: Api) -> None:
    for body in ("[]", '"x"', "1", "null", "true"):
        headers = {"Content-Type": "application/json"}
        response = await api.http.post("/v1/completions", content=body, headers=headers)
        assert response.status_code == 400
        assert error_of(response)["message"] == "The body must be a JSON object."


async def test_a_body_above_the_limit_is_413_whether_announced_or_not(valkey_url: str, worker: ScriptedWorker) -> None:
    async with running_api(valkey_url, max_body_bytes=2000) as api:
        body = json.dumps({"prompt": "x" * 3000}).encode()

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 500):
                yield body[start : start + 500]

        for content in (body, pieces()):
            headers = {"Content-Type": "application/json"}
            response = await api.http.post("/v1/completions", content=content, headers=headers)
            assert response.status_code == 413
            assert error_of(response)["code"] == "payload_too_large"
        assert (await api.http.post("/v1/completions", json={"prompt": "x" * 100})).status_code == 200


async def test_probes_answer(api: Api, worker: ScriptedWorker) -> None:
    assert (await api.http.get("/health")).content == b""
    assert (await api.http.post("/ping")).status_code == 200
    assert (await api.http.get("/version")).json()["version"]
    ready = await api.http.get("/ready")
    assert ready.status_code == 200
    assert ready.json()["ready"] is True
    assert {model["id"] for model in ready.json()["models"]} == {"tiny", "small/alias"}


async def test_metrics_count_requests_and_tokens(api: Api) -> None:
    await api.http.post("/v1/chat/completions", json=HI | {"stream": True})

    async def over() -> bool:
        return "headrace:sse_clients 0.0" in (await api.http.get("/metrics")).text

    await eventually(over)
    text = (await api.http.get("/metrics")).text
    assert 'headrace:api_requests_total{model_name="tiny",outcome="finished"} 1.0' in text
    assert 'headrace:api_requests_in_flight{model_name="tiny"} 0.0' in text
    assert 'vllm:time_to_first_token_seconds_count{engine="0",model_name="tiny"} 1.0' in text
    assert 'vllm:inter_token_latency_seconds_count{engine="0",model_name="tiny"} 5.0' in text
    assert 'http_requests_total{handler="/v1/chat/completions",method="POST",status="2xx"} 1.0' in text


async def test_the_document_describes_every_route_and_body(api: Api) -> None:
    document = (await api.http.get("/openapi.json")).json()
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert chat["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/ChatRequest")
    assert "422" not in chat["responses"]
    assert "temperature" in document["components"]["schemas"]["ChatRequest"]["properties"]
    text = json.dumps(document)
    for reference in set(text.split('"#/components/schemas/')[1:]):
        assert reference.split('"')[0] in document["components"]["schemas"]
    assert (await api.http.get("/docs")).status_code == 200


async def test_one_path_takes_conversations_and_texts(api: Api) -> None:
    chat = await api.http.post("/invocations", json=HI)
    assert chat.json()["choices"][0]["message"]["content"] == "Hello!"
    text = await api.http.post("/invocations", json={"prompt": "ab", "stream": True})
    assert text.headers["content-type"].startswith("text/event-stream")
    assert '"object":"text_completion"' in text.text
    for body in ({}, {"prompt": "ab", **HI}):
        response = await api.http.post("/invocations", json=body)
        assert (response.status_code, error_of(response)["param"]) == (400, "messages")
    assert error_of(await api.http.post("/invocations", json=HI | {"n": 0}))["param"] == "n"


async def test_tokenize_and_detokenize_undo_each_other(api: Api, worker: ScriptedWorker) -> None:
    answer = (await api.http.post("/tokenize", json={"prompt": "héllo", "return_token_strs": True})).json()
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"]) == 7
    assert answer["max_model_len"] == 512
    back = await api.http.post("/detokenize", json={"tokens": answer["tokens"]})
    assert back.json() == {"prompt": "<s>héllo"}
    chat = (await api.http.post("/tokenize", json=HI)).json()
    assert chat["token_strs"] is None
    assert worker.text_of(chat["tokens"]) == "<|user|>hi\n<|assistant|>"
    assert worker.jobs == []


async def test_bad_token_requests_name_the_parameter(api: Api) -> None:
    cases: list[tuple[str, dict[str, object], str]] = [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", **HI}, "prompt"),
        ("/tokenize", {"prompt": 1}, "prompt"),
        ("/detokenize", {"tokens": [257]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": [2**70]}, "tokens"),
        ("/detokenize", {}, "tokens"),
    ]
    for path, body, param in cases:
        response = await api.http.post(path, json=body)
        assert response.status_code == 400
        assert error_of(response)["param"] == param
