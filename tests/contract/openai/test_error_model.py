"""Every failure has one form, names what is at fault, and shows nothing of the inside."""

import json
import logging
import re
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from live_api import Api, data_lines, running_api
from scripted_worker import ScriptedWorker, running_worker

from headrace_api.operations import tokenize
from headrace_shared.errors import ErrorCode
from headrace_shared.protocol.event import Delta, Event, Failed, Started
from headrace_shared.queue.claims import Claim

HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
POSTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": HI,
    "/v1/completions": {"prompt": "hi"},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [1]},
}
INSIDE = re.compile(r"0x[0-9a-f]{6,}|Traceback|File \"|/site-packages/|\.py\b|pydantic|loc\b|errors\.")


async def test_failures_of_the_framework_look_like_ours(api: Api) -> None:
    answers = [
        (404, await api.http.get("/v1/nothing")),
        (405, await api.http.delete("/v1/completions")),
        (405, await api.http.put("/v1/models", json={})),
        (415, await api.http.post("/tokenize", content=b"{}")),
        (400, await api.http.post("/tokenize", json=[])),
        (400, await api.http.get("/autoscale/tiny", params={"target_drain_s": "soon"})),
        (400, await api.http.get("/v1/models", headers={"X-Request-Id": "a" * 513})),
    ]
    for status, answer in answers:
        assert answer.status_code == status, answer.request.url
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-request-id"]
        error = answer.json()["error"]
        assert set(answer.json()) == {"error"}
        assert set(error) == {"message", "type", "param", "code"}
        assert not INSIDE.search(error["message"]), error


async def test_wrong_query_parameters_are_told_together_with_their_values(api: Api) -> None:
    wrong = {"target_drain_s": "soon" * 100, "min": "-1", "max": "0"}
    error = (await api.http.get("/autoscale/tiny", params=wrong)).json()["error"]
    assert error["param"] == "target_drain_s"
    assert error["message"].startswith("3 problems: target_drain_s: should be a valid number")
    assert 'min: should be greater than or equal to 0, got "-1"' in error["message"]
    assert 'max: should be greater than or equal to 1, got "0"' in error["message"]
    assert len(error["message"]) < 500


@pytest.mark.parametrize(("path", "body"), POSTS.items())
async def test_fields_that_nobody_knows_are_told_wherever_they_are(
    api: Api, caplog: pytest.LogCaptureFixture, path: str, body: dict[str, Any]
) -> None:
    caplog.set_level(logging.INFO)
    answer = await api.http.post(path, json=body | {"zebra": 1, "gnu, or not": 2})
    assert answer.status_code == 200
    assert answer.headers["x-headrace-unknown-fields"] == "zebra, gnu%2C%20or%20not"
    [line] = [record for record in caplog.records if record.message == "unknown fields in the body"]
    assert vars(line)["fields"] == "zebra, gnu%2C%20or%20not"


async def test_unknown_fields_inside_of_others_are_told_by_their_paths(api: Api) -> None:
    body = HI | {
        "stream": True,
        "stream_options": {"yak": 1},
        "response_format": {"type": "text", "emu": 1},
    }
    answer = await api.http.post("/v1/chat/completions", json=body)
    told = set(answer.headers["x-headrace-unknown-fields"].split(", "))
    assert told == {"stream_options.yak", "response_format.emu"}


@pytest.mark.parametrize(
    ("path", "fields", "told"),
    [
        (
            "/v1/responses",
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi", "gnu": 1}], "id": "msg_1"}]},
            "input[0].content[0].gnu",
        ),
        ("/v1/responses", {"input": "Hi", "text": {"format": {"type": "text", "emu": 1}}}, "text.format.emu"),
        (
            "/v1/messages",
            {
                "max_tokens": 2,
                "messages": [{"role": "user", "content": "Hi", "yak": 1}],
                "system": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}],
            },
            "messages[0].yak",
        ),
    ],
)
async def test_unknown_fields_are_told_however_deep_they_are(
    api: Api, path: str, fields: dict[str, Any], told: str
) -> None:
    answer = await api.http.post(path, json=fields)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-headrace-unknown-fields"] == told


@pytest.mark.parametrize("stream", [True, False])
async def test_a_failure_of_the_engine_keeps_its_words_to_the_log(
    valkey_url: str, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    async def broken(_worker: ScriptedWorker, claim: Claim) -> AsyncGenerator[list[Event], None]:
        yield [Started("broken")]
        yield [Failed(ErrorCode.INTERNAL, 'Traceback: File "/srv/secret.py" <object at 0x7f00aa>')]

    async with running_worker(valkey_url, script=broken), running_api(valkey_url) as api:
        answer = await api.http.post(
            "/v1/chat/completions", json=HI | {"stream": stream}, headers={"X-Request-Id": "mine"}
        )
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert "request id mine" in error["message"]
    assert "secret" not in answer.text
    assert any("secret.py" in str(vars(record).get("reason", "")) for record in caplog.records)


async def test_a_mistake_of_ours_is_a_500_with_an_id_and_a_log_line(
    api: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*_: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(tokenize, "_tokenize", mistaken)
    answer = await api.http.post("/tokenize", json={"prompt": "hi"}, headers={"X-Request-Id": "mine"})
    assert answer.status_code == 500
    assert "request id mine" in answer.json()["error"]["message"]
    assert "secret" not in answer.text
    assert any(record.exc_info for record in caplog.records if record.message == "unhandled error")


async def test_what_a_template_says_is_told_without_addresses(valkey_url: str, worker: ScriptedWorker) -> None:
    async with running_worker(valkey_url, "open", trust_request_chat_template=True), running_api(valkey_url) as api:
        for template in (
            "{{ raise_exception(messages|map(attribute='role')) }}",
            "{{ messages.append + 1 }}",
            "{{ 'x' * 9 + raise_exception }}",
            "{{ raise_exception('long ' * 9999) }}",
        ):
            answer = await api.http.post("/v1/chat/completions", json=HI | {"model": "open", "chat_template": template})
            assert answer.status_code == 400, answer.text
            message = answer.json()["error"]["message"]
            assert not INSIDE.search(message), message
            assert len(message) < 5000


async def test_an_error_in_a_stream_has_the_same_form_and_ends_it(
    valkey_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def breaks(_worker: ScriptedWorker, claim: Claim) -> AsyncGenerator[list[Event], None]:
        yield [Started("breaks")]
        yield [Delta(0, [72], "H")]
        yield [Failed(ErrorCode.INTERNAL, "secret")]

    async with running_worker(valkey_url, script=breaks), running_api(valkey_url) as api:
        text = (await api.http.post("/v1/chat/completions", json=HI | {"stream": True})).text
    *_, failed, done = data_lines(text)
    assert done == "[DONE]"
    assert {"message", "type", "param", "code"} <= set(json.loads(failed)["error"])
    assert "secret" not in text
    assert [vars(line)["reason"] for line in caplog.records if line.message == "request failed"] == ["secret"]
