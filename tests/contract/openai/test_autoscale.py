"""Signals for autoscalers: what waits, how fast it is served, and how many workers that asks for."""

from typing import Any

import pytest
from eventually import eventually
from live_api import Api, running_api
from scripted_worker import running_worker

STREAM: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 100}


async def signals(api: Api, model: str = "tiny", **query: Any) -> dict[str, Any]:
    response = await api.http.get(f"/autoscale/{model}", params=query)
    assert response.status_code == 200, response.text
    told: dict[str, Any] = response.json()
    return told


async def test_an_idle_model_needs_the_least(api: Api) -> None:
    told = await signals(api)
    assert (told["model"], told["queued_requests"], told["queued_tokens"], told["running"]) == ("tiny", 0, 0, 0)
    assert (told["oldest_ms"], told["workers"], told["desired_workers"]) == (0, 1, 1)
    assert (await signals(api, min=0))["desired_workers"] == 0
    assert (await signals(api, min=4))["desired_workers"] == 4


async def test_aliases_are_models_too(api: Api) -> None:
    for name in ("small/alias", "small%2Falias"):
        assert (await signals(api, name))["model"] == "tiny"


async def test_an_unknown_model_is_404_and_wrong_numbers_are_400(api: Api) -> None:
    assert (await api.http.get("/autoscale/nothing")).status_code == 404
    for query in ("target_drain_s=0", "min=-1", "max=0", "max=x", "target_drain_s=nan"):
        response = await api.http.get(f"/autoscale/tiny?{query}")
        assert response.status_code == 400, query
        assert response.json()["error"]["param"] == query.partition("=")[0]


async def test_a_backlog_asks_for_more_workers_as_json_and_as_gauges(valkey_url: str) -> None:
    async with running_worker(valkey_url) as worker, running_api(valkey_url, first_event_wait_s=0) as api:
        await worker.stop_claiming()
        opened = [api.http.stream("POST", "/v1/chat/completions", json=STREAM) for _ in range(3)]
        for stream in opened:
            await stream.__aenter__()
        told = await signals(api)
        assert (told["queued_requests"], told["running"], told["tokens_per_s"]) == (3, 0, None)
        assert told["queued_tokens"] > 300
        assert told["desired_workers"] == 2, "the rate is unknown: one more than there are"
        assert (await signals(api, max=1))["desired_workers"] == 1

        async def shown() -> bool:
            text = (await api.http.get("/metrics")).text
            return 'headrace:queue_requests{model_name="tiny"} 3.0' in text and "headrace:queue_oldest_seconds" in text

        await eventually(shown, 10)
        for stream in opened:
            await stream.__aexit__(None, None, None)


async def test_gauges_of_a_model_that_left_some_time_ago_are_gone(
    valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace_api.directory._RECENTLY_S", 2.0)
    async with running_api(valkey_url) as api:
        async with running_worker(valkey_url):
            await eventually(lambda: shows(api), 10)
        await eventually(lambda: shows_not(api), 10)


async def shows(api: Api) -> bool:
    return 'headrace:queue_requests{model_name="tiny"}' in (await api.http.get("/metrics")).text


async def shows_not(api: Api) -> bool:
    return not await shows(api)
