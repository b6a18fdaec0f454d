"""Options of the HTTP front end, by what they do to requests and answers."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from eventually import eventually
from live_api import Api, data_lines, running_api
from scripted_worker import ScriptedWorker, ids_of, running_worker

from headrace_api.__main__ import Server
from headrace_api.settings import ApiSettings
from headrace_shared.protocol.event import Delta, Event, Finished, FinishReason, Started
from headrace_shared.queue.claims import Claim
from headrace_shared.settings import QueueSettings, RedisSettings

HI = {"messages": [{"role": "user", "content": "hi"}]}
OWN = "own_middleware_examples.Stamp, own_middleware_examples:keep_out"
PAGE = "https://page.example"
PREFLIGHT = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}


async def test_without_origins_no_web_page_is_told_that_it_may_call(api: Api) -> None:
    answer = await api.http.get("/v1/models", headers={"Origin": PAGE})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert (await api.http.options("/v1/chat/completions", headers=PREFLIGHT)).status_code == 405


async def test_a_page_of_an_allowed_origin_may_call_even_where_a_key_is_needed(
    valkey_url: str, worker: ScriptedWorker
) -> None:
    async with running_api(valkey_url, allowed_origins=json.dumps([PAGE]), api_keys="one") as api:
        preflight = await api.http.options("/v1/chat/completions", headers=PREFLIGHT)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == PAGE
        assert "POST" in preflight.headers["access-control-allow-methods"]
        refused = await api.http.get("/v1/models", headers={"Origin": PAGE})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == PAGE  # else the page could not read why
        stranger = await api.http.get("/v1/models", headers={"Origin": "https://other.example"})
        assert "access-control-allow-origin" not in stranger.headers


async def test_only_allowed_methods_and_headers_pass_a_preflight(valkey_url: str, worker: ScriptedWorker) -> None:
    cors: dict[str, Any] = {"allowed_origins": '["*"]', "allowed_methods": '["GET"]', "allowed_headers": '["X-Mine"]'}
    async with running_api(valkey_url, **cors) as api:
        for asked, status in (
            ({"Access-Control-Request-Method": "GET"}, 200),
            ({"Access-Control-Request-Method": "POST"}, 400),
            ({"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "X-Mine"}, 200),
            ({"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "X-Other"}, 400),
        ):
            answer = await api.http.options("/v1/models", headers={"Origin": PAGE, **asked})
            assert answer.status_code == status, asked


@pytest.mark.parametrize("allowed", [True, False])
async def test_cookies_are_let_through_only_when_that_is_allowed(
    valkey_url: str, worker: ScriptedWorker, allowed: bool
) -> None:
    async with running_api(valkey_url, allowed_origins=PAGE, allow_credentials=allowed) as api:
        answer = await api.http.get("/v1/models", headers={"Origin": PAGE})
        assert (answer.headers.get("access-control-allow-credentials") == "true") is allowed


async def test_own_middleware_sees_every_request_the_last_named_first(valkey_url: str, worker: ScriptedWorker) -> None:
    async with running_api(valkey_url, middleware=OWN, api_keys="one") as api:
        answer = await api.http.get("/v1/models")
        assert answer.status_code == 401
        assert answer.headers.get_list("x-stamp") == ["class", "function"]
        assert (await api.http.get("/v1/models", headers={"X-Keep-Out": "1"})).status_code == 418


async def test_streams_pass_own_middleware_as_they_come(valkey_url: str) -> None:
    last_word = asyncio.Event()

    async def slow(_worker: ScriptedWorker, claim: Claim) -> AsyncGenerator[list[Event], None]:
        yield [Started("slow")]
        yield [Delta(0, ids_of("a"), "a")]
        await last_word.wait()
        yield [Delta(0, ids_of("b"), "b", None, FinishReason.STOP)]
        yield [Finished(1, 2)]

    body = {"prompt": "hi", "stream": True}
    async with (
        running_worker(valkey_url, script=slow),
        running_api(valkey_url, middleware=OWN) as api,
        api.http.stream("POST", "/v1/completions", json=body) as answer,
    ):
        assert answer.headers.get_list("x-stamp") == ["class", "function"]
        lines = answer.aiter_lines()
        assert '"a"' in await next_data(lines)
        last_word.set()
        assert '"b"' in await next_data(lines)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_is_noticed_through_own_middleware(valkey_url: str, stream: bool) -> None:
    async def endless(_worker: ScriptedWorker, claim: Claim) -> AsyncGenerator[list[Event], None]:
        yield [Started("endless")]
        while True:
            yield [Delta(0, ids_of("a"), "a")]
            await asyncio.sleep(0.01)

    async with (
        running_worker(valkey_url, script=endless) as worker,
        running_api(valkey_url, middleware=OWN, disconnect_linger_s=0) as api,
    ):
        with contextlib.suppress(httpx.ReadTimeout):
            body = {"prompt": "hi", "stream": stream}
            async with api.http.stream("POST", "/v1/completions", json=body, timeout=0.5) as answer:
                await next_data(answer.aiter_lines())
        await eventually(lambda: len(worker.cancelled) == 1)


async def next_data(lines: AsyncIterator[str]) -> str:
    async for line in lines:
        if line.startswith("data: "):
            return line
    raise AssertionError("the stream is over")


async def test_ids_are_left_out_of_answers_on_request(valkey_url: str, worker: ScriptedWorker) -> None:
    async with running_api(valkey_url, enable_request_id_headers=False) as api:
        answer = await api.http.get("/v1/models", headers={"X-Request-Id": "mine"})
        assert "x-request-id" not in answer.headers
        told = (await api.http.post("/v1/completions", json={"prompt": "hi"}, headers={"X-Request-Id": "mine"})).json()
        assert told["id"].startswith("cmpl-mine-")


async def test_the_description_can_be_hidden(valkey_url: str, worker: ScriptedWorker) -> None:
    async with running_api(valkey_url, fastapi_docs=False) as api:
        for path in ("/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"):
            assert (await api.http.get(path)).status_code == 404, path
        assert (await api.http.get("/v1/models")).status_code == 200


@pytest.mark.parametrize("wanted", [True, False])
async def test_answers_are_logged_unless_told_otherwise(
    valkey_url: str, worker: ScriptedWorker, caplog: pytest.LogCaptureFixture, wanted: bool
) -> None:
    caplog.set_level(logging.INFO)
    async with running_api(valkey_url, access_log=wanted) as api:
        await api.http.post("/v1/completions", json={"prompt": "hi"})
        counted = (await api.http.get("/metrics")).text
    assert ("request answered" in caplog.messages) is wanted
    assert 'handler="/v1/completions"' in counted


async def test_prompts_are_in_the_log_only_on_request_and_cut_to_their_length(
    valkey_url: str, worker: ScriptedWorker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def logged(**settings: Any) -> list[str]:
        caplog.clear()
        async with running_api(valkey_url, **settings) as api:
            assert (await api.http.post("/v1/completions", json={"prompt": ["secret", "other"]})).status_code == 200
        return [vars(line)["prompt"] for line in caplog.records if line.message == "request accepted"]

    assert await logged() == []
    assert await logged(max_log_len=3) == []
    assert await logged(enable_log_requests=True) == ["<s>secret", "<s>other"]
    assert await logged(enable_log_requests=True, max_log_len=4) == ["<s>s", "<s>o"]
    assert await logged(enable_log_requests=True, max_log_len=0) == ["", ""]


async def test_answers_are_in_the_log_only_on_request_and_cut_to_their_length(
    valkey_url: str, worker: ScriptedWorker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def logged(stream: bool = False, **settings: Any) -> tuple[list[str], list[str]]:
        caplog.clear()
        async with running_api(valkey_url, **settings) as api:
            body = {"prompt": ["secret", "other"], "stream": stream}
            response = await api.http.post("/v1/completions", json=body)
            request_id = response.headers["x-headrace-request-id"]
            await api.http.get(f"/v1/requests/{request_id}/stream")
        wholes = [vars(line) for line in caplog.records if line.message == "request answered by the model"]
        parts = [vars(line) for line in caplog.records if line.message == "answer goes on"]
        assert {line["job"] for line in wholes + parts} <= {f"{request_id}-0", f"{request_id}-1"}
        assert {line["finish_reason"] for line in wholes} <= {"stop"}
        return [line["answer"] for line in wholes], [line["text"] for line in parts]

    assert await logged() == ([], [])
    assert await logged(stream=True, max_log_len=3) == ([], [])
    assert await logged(enable_log_outputs=True) == (["Hello!", "Hello!"], [])
    assert await logged(enable_log_outputs=True, max_log_len=4) == (["Hell", "Hell"], [])
    assert await logged(stream=True, enable_log_outputs=True, max_log_len=0) == (["", ""], [""] * 12)
    whole, parts = await logged(stream=True, enable_log_outputs=True)
    assert (whole, sorted(parts)) == (["Hello!", "Hello!"], sorted("Hello!" * 2))
    assert await logged(stream=True, enable_log_outputs=True, enable_log_deltas=False) == (["Hello!", "Hello!"], [])


async def test_an_answer_that_its_client_gave_up_is_logged_as_far_as_it_came(
    valkey_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    may_end = asyncio.Event()

    async def writes(_worker: ScriptedWorker, claim: Claim) -> AsyncGenerator[list[Event], None]:
        yield [Started("w", 1), Delta(0, ids_of("Hel"), "Hel")]
        await may_end.wait()

    async with running_worker(valkey_url, script=writes), running_api(valkey_url, enable_log_outputs=True) as api:
        async with api.http.stream("POST", "/v1/completions", json={"prompt": "hi", "stream": True}) as response:
            async for _ in response.aiter_lines():
                break
        await eventually(lambda: any(line.message == "request answered by the model" for line in caplog.records))
        may_end.set()
    [line] = [vars(line) for line in caplog.records if line.message == "request answered by the model"]
    assert (line["answer"], line["finish_reason"]) == ("Hel", "abort")


async def test_the_load_is_told_where_it_is_tracked(valkey_url: str) -> None:
    may_end = asyncio.Event()

    async def waiting(_worker: ScriptedWorker, claim: Claim) -> AsyncGenerator[list[Event], None]:
        yield [Started("waiting")]
        await may_end.wait()
        yield [Delta(0, ids_of("a"), "a", None, FinishReason.STOP)]
        yield [Finished(1, 1)]

    async with running_worker(valkey_url, script=waiting):
        async with running_api(valkey_url, enable_server_load_tracking=False) as api:
            assert (await api.http.get("/load")).status_code == 404
        async with running_api(valkey_url) as api:

            async def load() -> int:
                return int((await api.http.get("/load")).json()["server_load"])

            assert await load() == 0
            asked = [asyncio.create_task(api.http.post("/v1/completions", json={"prompt": "hi"})) for _ in range(3)]

            async def all_in_hand() -> bool:
                return await load() == 3

            await eventually(all_in_hand)
            may_end.set()
            await asyncio.gather(*asked)
            assert await load() == 0


async def test_tokens_are_named_by_their_ids_where_the_request_does_not_say(
    valkey_url: str, worker: ScriptedWorker
) -> None:
    async with running_api(valkey_url, return_tokens_as_token_ids=True) as api:

        async def first_token(**body: object) -> str:
            answer = await api.http.post("/v1/completions", json={"prompt": "hi", "logprobs": 1, **body})
            return str(answer.json()["choices"][0]["logprobs"]["tokens"][0])

        assert await first_token() == f"token_id:{ids_of('H')[0]}"
        assert await first_token(return_tokens_as_token_ids=None) == f"token_id:{ids_of('H')[0]}"
        assert await first_token(return_tokens_as_token_ids=False) == "H"


async def cached(_worker: ScriptedWorker, claim: Claim) -> AsyncGenerator[list[Event], None]:
    yield [Started("cached")]
    yield [Delta(0, ids_of("a"), "a", None, FinishReason.STOP)]
    yield [Finished(2, 1, cached_tokens=2)]


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/v1/chat/completions", HI, 2),
        ("/v1/completions", {"prompt": "hi"}, 2),
        ("/v1/completions", {"prompt": ["hi", "ho"]}, 4),
    ],
)
async def test_cached_prompt_tokens_are_told_on_request(
    valkey_url: str, path: str, body: dict[str, object], expected: int
) -> None:
    streamed = body | {"stream": True, "stream_options": {"include_usage": True}}
    async with running_worker(valkey_url, script=cached):
        async with running_api(valkey_url, enable_prompt_tokens_details=True) as api:
            whole = (await api.http.post(path, json=body)).json()
            assert whole["usage"]["prompt_tokens_details"] == {"cached_tokens": expected}
            *_, last, _done = data_lines((await api.http.post(path, json=streamed)).text)
            assert json.loads(last)["usage"] == whole["usage"]
        async with running_api(valkey_url) as api:
            assert "prompt_tokens_details" not in (await api.http.post(path, json=body)).json()["usage"]


async def test_a_unix_socket_is_listened_on(tmp_path: Path, valkey_url: str, worker: ScriptedWorker) -> None:
    path = tmp_path / "api.sock"
    server = Server(ApiSettings(uds=str(path), shutdown_grace_s=1), RedisSettings(url=valkey_url), QueueSettings())
    running = asyncio.create_task(asyncio.to_thread(server.run))
    try:
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport, base_url="http://headrace") as client:

            async def serves() -> bool:
                with contextlib.suppress(httpx.ConnectError):
                    return (await client.get("/ready")).status_code == 200
                return False

            await eventually(serves)
            assert (await client.post("/v1/completions", json={"prompt": "hi"})).status_code == 200
    finally:
        server.should_exit = True
        await running


@pytest.mark.parametrize(("level", "heard"), [("info", True), ("error", False)])
async def test_the_http_server_has_a_log_level_of_its_own(
    valkey_url: str, caplog: pytest.LogCaptureFixture, level: str, heard: bool
) -> None:
    caplog.set_level(logging.INFO)
    async with running_api(valkey_url, uvicorn_log_level=level):
        pass
    logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)
    assert any("Application startup complete" in message for message in caplog.messages) is heard
