"""Model discovery as clients see it: what is there, what comes and goes, what disagrees."""

import asyncio
from typing import Any

from eventually import eventually
from live_api import Api, running_api
from scripted_worker import ScriptedWorker, running_worker

HI = {"messages": [{"role": "user", "content": "hi"}]}


async def listed(api: Api) -> dict[str, Any]:
    return {model["id"]: model for model in (await api.http.get("/v1/models")).json()["data"]}


async def test_models_are_listed_with_their_aliases(api: Api) -> None:
    models = await listed(api)
    assert set(models) == {"tiny", "small/alias"}
    assert models["tiny"]["object"] == "model"
    assert models["tiny"]["max_model_len"] == 512
    assert models["tiny"]["permission"][0]["allow_sampling"] is True
    assert "conflicts" not in models["tiny"]
    assert {model.id async for model in api.sdk.models.list()} == {"tiny", "small/alias"}


async def test_one_model_is_found_also_by_a_name_with_slashes(api: Api) -> None:
    assert (await api.http.get("/v1/models/small/alias")).json()["id"] == "small/alias"
    missing = await api.http.get("/v1/models/no/such")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"


async def test_an_unknown_model_is_404_and_the_known_ones_are_named(api: Api) -> None:
    response = await api.http.post("/v1/chat/completions", json=HI | {"model": "gpt-9"})
    assert response.status_code == 404
    error = response.json()["error"]
    assert error["message"] == "The model 'gpt-9' does not exist. Models served: 'small/alias', 'tiny'."
    assert (error["param"], error["code"], error["type"]) == ("model", "model_not_found", "not_found_error")


async def test_models_come_and_go_while_the_api_runs(valkey_url: str) -> None:
    async with running_api(valkey_url) as api:
        assert await listed(api) == {}
        not_ready = await api.http.get("/ready")
        assert not_ready.status_code == 503
        assert not_ready.json()["missing"] == ["no worker is alive"]
        assert (await api.http.post("/v1/chat/completions", json=HI)).status_code == 503

        async with running_worker(valkey_url, "late") as worker:
            await eventually(lambda: has(api, "late"), 2)
            assert (await api.http.post("/v1/chat/completions", json=HI)).status_code == 200
            await worker.die(lease_ms=500)
            await eventually(lambda: lacks(api, "late"), 4)
            response = await api.http.post("/v1/chat/completions", json=HI | {"model": "late"})
            assert response.status_code == 503
            assert response.headers["retry-after"] == "1"


async def has(api: Api, name: str) -> bool:
    return name in await listed(api)


async def lacks(api: Api, name: str) -> bool:
    return not await has(api, name)


async def test_several_models_are_served_at_once_and_then_need_their_names(valkey_url: str) -> None:
    async with (
        running_worker(valkey_url, "a") as a,
        running_worker(valkey_url, "b") as b,
        running_api(valkey_url) as api,
    ):
        for name in ("a", "b", "b"):
            response = await api.http.post("/v1/chat/completions", json=HI | {"model": name})
            assert response.json()["model"] == name
        assert (len(a.claims), len(b.claims)) == (1, 2)
        nameless = await api.http.post("/v1/chat/completions", json=HI)
        assert nameless.status_code == 400
        assert nameless.json()["error"]["param"] == "model"


async def test_cards_that_disagree_are_reported_and_the_majority_serves(valkey_url: str) -> None:
    async with (
        running_worker(valkey_url, "m", max_model_len=64) as odd,
        running_worker(valkey_url, "m") as first,
        running_worker(valkey_url, "m") as second,
        running_api(valkey_url) as api,
    ):
        model = (await listed(api))["m"]
        assert model["max_model_len"] == 512
        assert sorted(model["conflicts"], key=lambda conflict: conflict["workers"]) == [
            {"card": odd.card.digest, "workers": 1, "chosen": False},
            {"card": first.card.digest, "workers": 2, "chosen": True},
        ]
        assert (await api.http.get("/ready")).json()["conflicts"] == ["m"]
        assert "headrace:model_card_conflicts 1.0" in (await api.http.get("/metrics")).text
        for _ in range(5):
            await api.http.post("/v1/chat/completions", json=HI)
        assert (len(odd.claims), len(first.claims) + len(second.claims)) == (0, 5)


async def test_of_equally_many_the_card_that_was_there_first_serves(valkey_url: str) -> None:
    async with running_worker(valkey_url, "m", max_model_len=100):
        await asyncio.sleep(0.01)
        async with running_worker(valkey_url, "m", max_model_len=200), running_api(valkey_url) as api:
            assert (await listed(api))["m"]["max_model_len"] == 100


async def test_a_model_whose_workers_are_starting_is_not_served_yet(valkey_url: str) -> None:
    async with running_worker(valkey_url, "m") as worker:
        worker.state = "starting"
        await asyncio.sleep(0.3)
        async with running_api(valkey_url) as api:
            assert await listed(api) == {}
            assert (await api.http.get("/ready")).json()["missing"] == ["model 'm': its workers are starting"]
            assert (await api.http.post("/v1/chat/completions", json=HI | {"model": "m"})).status_code == 503
            worker.state = "ready"
            await eventually(lambda: has(api, "m"), 2)


async def test_a_model_with_a_broken_tokenizer_is_not_served_and_ready_says_why(
    valkey_url: str, worker: ScriptedWorker, api: Api
) -> None:
    async with running_worker(valkey_url, "broken", tokenizer="0" * 64):

        async def told() -> bool:
            missing: list[str] = (await api.http.get("/ready")).json()["missing"]
            return missing == ["model 'broken': its tokenizer or chat template is not in Redis"]

        await eventually(told, 3)
        assert (await api.http.post("/v1/chat/completions", json=HI | {"model": "tiny"})).status_code == 200


async def test_a_model_without_template_takes_no_messages_but_texts(valkey_url: str) -> None:
    async with running_worker(valkey_url, "base", template=False), running_api(valkey_url) as api:
        refused = await api.http.post("/v1/chat/completions", json=HI)
        assert refused.status_code == 400
        assert "has no chat template" in refused.json()["error"]["message"]
        assert (await api.http.post("/v1/completions", json={"prompt": "a"})).status_code == 200


async def test_a_request_brings_its_own_template_only_where_that_is_allowed(valkey_url: str, api: Api) -> None:
    body = HI | {"chat_template": "{{ messages[0].content }}?"}
    refused = await api.http.post("/v1/chat/completions", json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "chat_template"
    async with running_worker(valkey_url, "open", trust_request_chat_template=True) as worker:
        await eventually(lambda: has(api, "open"), 2)
        assert (await api.http.post("/v1/chat/completions", json=body | {"model": "open"})).status_code == 200
        assert worker.jobs[0].prompt == bytes(worker.jobs[0].prompt)
        broken = HI | {"chat_template": "{% for", "model": "open"}
        assert (await api.http.post("/v1/chat/completions", json=broken)).status_code == 400
