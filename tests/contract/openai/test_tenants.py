"""Whose request it is, and what they may ask for: names, priorities, rates."""

import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from eventually import eventually
from live_api import Api, running_api
from scripted_worker import ScriptedWorker, ids_of

from headrace_api.tenants import tenant_of_key

CHAT = "/v1/chat/completions"
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
PROMPT_TOKENS = len(ids_of("<|user|>hi\n<|assistant|>"))


async def post(api: Api, body: dict[str, Any] | None = None, **headers: str) -> httpx.Response:
    return await api.http.post(CHAT, json=HI if body is None else body, headers=headers)


def keys_file(folder: Path, **keys: dict[str, Any]) -> str:
    path = folder / "keys.json"
    path.write_text(json.dumps(keys))
    return str(path)


@pytest.mark.parametrize(
    ("header", "user", "tenant"), [(None, None, "-"), (None, "bob", "bob"), ("ann", "bob", "ann"), (None, "", "-")]
)
async def test_without_keys_a_client_says_for_whom_it_asks(
    api: Api, worker: ScriptedWorker, header: str | None, user: str | None, tenant: str
) -> None:
    headers = {} if header is None else {"X-Headrace-Tenant": header}
    assert (await post(api, HI | {"user": user}, **headers)).status_code == 200
    assert worker.jobs[0].header.tenant == tenant


async def test_with_keys_the_key_decides(valkey_url: str, worker: ScriptedWorker, tmp_path: Path) -> None:
    path = keys_file(tmp_path, ann={"key": "hers"})
    async with running_api(valkey_url, api_keys="plain", api_keys_file=path) as api:
        for key, tenant in (("hers", "ann"), ("plain", tenant_of_key("plain"))):
            headers = {"Authorization": f"Bearer {key}", "X-Headrace-Tenant": "somebody"}
            assert (await post(api, HI | {"user": "else"}, **headers)).status_code == 200
            assert worker.jobs[-1].header.tenant == tenant
        assert (await post(api, Authorization="Bearer ann")).status_code == 401


@pytest.mark.parametrize(
    ("headers", "user", "param"),
    [({"X-Headrace-Tenant": "x" * 129}, None, "X-Headrace-Tenant"), ({}, "a\nb", "user"), ({}, "x" * 129, "user")],
)
async def test_a_name_that_is_none_is_400(api: Api, headers: dict[str, str], user: str | None, param: str) -> None:
    response = await post(api, HI | {"user": user}, **headers)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_a_priority_outside_of_the_keys_range_is_400(
    valkey_url: str, worker: ScriptedWorker, tmp_path: Path
) -> None:
    path = keys_file(tmp_path, ann={"key": "a", "priority_min": 5, "priority_max": 9}, bob={"key": "b"})
    async with running_api(valkey_url, api_keys_file=path, priority_min=0) as api:
        ann, bob = ({"Authorization": f"Bearer {key}"} for key in "ab")
        for headers, priority in ((ann, 5), (ann, 9), (bob, 0), (bob, 1000)):
            assert (await post(api, HI | {"priority": priority}, **headers)).status_code == 200
            assert worker.jobs[-1].header.priority == priority
        for headers, priority, said in (
            (ann, 4, "at least 5 and at most 9"),
            (ann, 10, "at most 9"),
            (bob, -1, "at least 0"),
        ):
            response = await post(api, HI | {"priority": priority}, **headers)
            assert (response.status_code, response.json()["error"]["param"]) == (400, "priority")
            assert said in response.json()["error"]["message"]
        await post(api, None, **ann)
        assert worker.jobs[-1].header.priority == 5, "the allowed one nearest to 0"


async def test_requests_per_minute_are_counted_for_all_nodes_together(valkey_url: str, worker: ScriptedWorker) -> None:
    async with (
        running_api(valkey_url, requests_per_minute=3) as api,
        running_api(valkey_url, requests_per_minute=3) as other,
    ):
        answers = [await post(node) for node in (api, other, api)]
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["2", "1", "0"]
        assert answers[0].headers["x-ratelimit-limit-requests"] == "3"
        assert answers[0].headers["x-ratelimit-reset-requests"].endswith("s")
        assert "x-ratelimit-limit-tokens" not in answers[0].headers
        refused = await post(other)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert 15_000 < int(refused.headers["retry-after-ms"]) <= 20_000
        assert refused.headers["x-should-retry"] == "true"
        assert (await post(other, None, **{"X-Request-Timeout": "5"})).headers["x-should-retry"] == "false"
        assert (await post(other, None, **{"X-Headrace-Tenant": "else"})).status_code == 200
        with pytest.raises(openai.RateLimitError):
            await api.sdk.chat.completions.create(model="tiny", **HI)
    assert len(worker.claims) == 4


async def test_tokens_that_were_not_needed_are_given_back(valkey_url: str, worker: ScriptedWorker) -> None:
    async with running_api(valkey_url, tokens_per_minute=1000) as api:
        used = PROMPT_TOKENS + 6
        first = await post(api, HI | {"max_tokens": 400})
        assert first.headers["x-ratelimit-remaining-tokens"] == str(1000 - 400 - PROMPT_TOKENS)

        async def settled() -> bool:
            """What is back in the meantime may come on top."""
            left = int((await post(api, HI | {"max_tokens": 1})).headers["x-ratelimit-remaining-tokens"])
            return left >= 1000 - 20 * used

        await eventually(settled)
        for body in ({"stream": True, "max_tokens": 400}, {"max_tokens": 400}):
            assert (await post(api, HI | body)).status_code == 200


async def test_a_request_above_the_whole_rate_passes_only_when_nothing_was_used(
    valkey_url: str, worker: ScriptedWorker
) -> None:
    async with running_api(valkey_url, tokens_per_minute=50) as api:
        assert (await post(api, HI | {"max_tokens": 100, "stream": True})).status_code == 200
        assert (await post(api, HI | {"max_tokens": 100})).status_code == 429


async def test_repeats_with_an_idempotency_key_are_not_charged(valkey_url: str, worker: ScriptedWorker) -> None:
    async with running_api(valkey_url, requests_per_minute=1) as api:
        for _ in range(3):
            assert (await post(api, None, **{"Idempotency-Key": "k"})).status_code == 200
        assert (await post(api)).status_code == 429
