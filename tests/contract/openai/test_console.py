"""The console without a browser: who may see and do what, what its page may load, and what its events say."""

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import redis
from batching import chats, running_batch_worker
from dead_letters import bury
from eventually import eventually
from live_api import Api, running_api
from prometheus_client.parser import text_string_to_metric_families
from scripted_worker import Frames, Gated, ScriptedWorker, running_worker, saying

from headrace_api.console.page import FILES
from headrace_shared.protocol.event import Delta, Started
from headrace_shared.queue.claims import Claim

CHAT = "/v1/chat/completions"
RETRY = "/console/dead-letters/retry"
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "a secret"}]}
STREAM = HI | {"stream": True}
ANN, BOB, OPS = ({"Authorization": f"Bearer {key}"} for key in ("hers", "his", "theirs"))


def keys_file(folder: Path) -> str:
    path = folder / "keys.json"
    path.write_text(
        json.dumps({"ann": {"key": "hers"}, "bob": {"key": "his"}, "ops": {"key": "theirs", "admin": True}})
    )
    return str(path)


async def pictures(api: Api, headers: dict[str, str] | None = None) -> AsyncIterator[dict[str, Any]]:
    """What a viewer gets, second by second."""
    async with api.http.stream("GET", "/console/events", headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        name = ""
        async for line in response.aiter_lines():
            name = line.removeprefix("event: ") if line.startswith("event: ") else name
            if line.startswith("data: ") and name == "snapshot":
                yield json.loads(line.removeprefix("data: "))


async def picture(api: Api, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """The first that a new viewer gets."""
    async with aclosing(pictures(api, headers)) as seen:  # type: ignore[type-var]
        return await anext(seen)


async def endless(_worker: ScriptedWorker, _claim: Claim) -> Frames:
    yield [Started("scripted")]
    while True:
        yield [Delta(0, [1], "x")]
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("path", ["/console", *(f"/console/files/{name}" for name in FILES)])
async def test_the_page_is_open_and_may_load_nothing_from_elsewhere(valkey_url: str, path: str) -> None:
    async with running_api(valkey_url, api_keys="k") as api:
        response = await api.http.get(path)
    assert response.status_code == 200
    rules = dict(rule.strip().split(" ", 1) for rule in response.headers["content-security-policy"].split(";"))
    assert rules == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert "set-cookie" not in response.headers
    assert set(re.findall(r"https?://[^\"\s]+", response.text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<style|style=|<script>|\son[a-z]+=|innerHTML|document\.write|eval\(", response.text)


async def test_the_page_knows_whether_it_has_to_ask_for_a_key(valkey_url: str) -> None:
    async with running_api(valkey_url, api_keys="k") as guarded, running_api(valkey_url) as free:
        assert "data-guarded" in (await guarded.http.get("/console")).text
        assert "data-guarded" not in (await free.http.get("/console")).text


async def test_nothing_but_the_page_is_open(valkey_url: str) -> None:
    async with running_api(valkey_url, api_keys="k") as api:
        for path in ("/console/events", "/console/events?key=k", "/console/", "/console/files", "/console/else"):
            assert (await api.http.get(path)).status_code == 401, path
        assert (await api.http.post(RETRY, json={"queue": "q", "id": "1-1"})).status_code == 401
        for path in ("/console/files/..%2fevents", "/console/files/../../v1/models", "/console/files/feed.py"):
            assert (await api.http.get(path)).status_code in (401, 404), path


async def test_a_picture_has_the_numbers_of_metrics(valkey_url: str) -> None:
    async with running_worker(valkey_url) as worker, running_api(valkey_url, first_event_wait_s=0) as api:
        await worker.stop_claiming()
        opened = [api.http.stream("POST", CHAT, json=STREAM | {"priority": priority}) for priority in (0, 0, 7)]
        for stream in opened:
            await stream.__aenter__()

        async def all_seen() -> bool:
            return [model["queued_requests"] for model in (await picture(api))["models"]] == [3]

        await eventually(all_seen, 10)
        shown = await picture(api)
        text = (await api.http.get("/metrics")).text
        found = {
            (sample.name, sample.labels.get("priority") or sample.labels.get("state")): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        [model] = shown["models"]
        for name, field in {
            "queue_requests": "queued_requests",
            "queue_tokens": "queued_tokens",
            "queue_running": "running",
            "model_slots": "slots",
            "dead_letters": "dead_letters",
            "desired_workers": "desired_workers",
        }.items():
            assert found[f"headrace:{name}", None] == model[field], name
        assert found["headrace:workers", "ready"] == len(model["workers"]) == 1
        assert found["headrace:api_requests_in_flight", None] == shown["point"]["in_flight"] == 3
        assert [(lane["priority"], lane["requests"]) for lane in model["lanes"]] == [(0, 2), (7, 1)]
        assert found["headrace:queue_priority_requests", "0"] == 2
        assert found["headrace:queue_priority_tokens", "1 to 10"] == model["lanes"][1]["tokens"]
        assert max(lane["oldest_ms"] for lane in model["lanes"]) == pytest.approx(model["oldest_ms"], abs=300)
        assert 0 < model["lanes"][1]["oldest_ms"] <= model["lanes"][0]["oldest_ms"] + 300
        assert 0 < model["workers"][0]["lease_ms"] <= worker.lease_ms
        for stream in opened:
            await stream.__aexit__(None, None, None)


async def test_any_node_shows_the_charts_of_all_which_are_the_sums_of_their_metrics(valkey_url: str) -> None:
    async with (
        running_worker(valkey_url, script=saying("one two three")),
        running_api(valkey_url) as busy,
        running_api(valkey_url) as idle,
    ):

        async def shown(api: Api) -> dict[str, Any]:
            point: dict[str, Any] = (await picture(api))["point"]
            return point

        async def alike() -> bool:
            points = [await shown(api) for api in (busy, idle)]
            return all(point["requests_per_s"] > 0 and point["ttft_p50_ms"] is not None for point in points)

        for _ in range(20):
            assert (await busy.http.post(CHAT, json=STREAM)).is_success
        await eventually(alike, 10)
        assert (await idle.http.get("/metrics")).text.count("vllm:time_to_first_token_seconds_count") == 0
        async with running_worker(valkey_url, "slow", script=endless):
            answers = [api.http.stream("POST", CHAT, json=STREAM | {"model": "slow"}) for api in (busy, busy, idle)]
            await eventually(lambda: _serves(idle, "slow"), 10)
            await eventually(lambda: _serves(busy, "slow"), 10)
            for answer in answers:
                await answer.__aenter__()

            async def three() -> bool:
                return [(await shown(api))["in_flight"] for api in (busy, idle)] == [3, 3]

            await eventually(three, 10)
            texts = [(await api.http.get("/metrics")).text for api in (busy, idle)]
            counted = re.findall(r'^headrace:api_requests_in_flight\{model_name="slow"\} (\S+)', "\n".join(texts), re.M)
            assert sum(map(float, counted)) == 3
            for answer in answers:
                await answer.__aexit__(None, None, None)


async def _serves(api: Api, model: str) -> bool:
    return model in (await api.http.get("/v1/models")).text


async def test_a_model_whose_workers_are_gone_is_shown_as_down_with_what_waits_for_it(valkey_url: str) -> None:
    async with running_api(valkey_url, first_event_wait_s=0) as api:
        async with running_worker(valkey_url) as worker:
            await worker.stop_claiming()
            await eventually(lambda: _serves(api, "tiny"), 10)
            waiting = api.http.stream("POST", CHAT, json=STREAM)
            await waiting.__aenter__()

        async def down() -> bool:
            return [model["up"] for model in (await picture(api))["models"]] == [False]

        await eventually(down, 15)
        [model] = (await picture(api))["models"]
        assert (model["name"], model["workers"], model["queued_requests"], model["desired_workers"]) == (
            "tiny",
            [],
            1,
            1,
        )
        assert model["lanes"][0]["requests"] == 1
        text = (await api.http.get("/metrics")).text
        assert 'headrace:queue_requests{model_name="tiny"} 1.0' in text
        assert "headrace:models 0.0" in text
        async with running_worker(valkey_url):

            async def back() -> bool:
                return [model["up"] for model in (await picture(api))["models"]] == [True]

            await eventually(back, 15)
            await waiting.__aexit__(None, None, None)


async def test_a_picture_comes_every_second_after_the_history_of_the_charts(api: Api) -> None:
    await api.http.post(CHAT, json=STREAM)
    async with api.http.stream("GET", "/console/events") as response:
        lines = response.aiter_lines()
        assert await anext(lines) == "event: history"
        points = json.loads((await anext(lines)).removeprefix("data: "))
        await lines.aclose()
    assert all(first["at_ms"] < second["at_ms"] for first, second in itertools.pairwise(points))
    async with aclosing(pictures(api)) as seen:  # type: ignore[type-var]
        times = [(await anext(seen))["point"]["at_ms"] for _ in range(4)]
        last = await anext(seen)
    assert [after - before for before, after in itertools.pairwise(times[1:])] == pytest.approx([1000] * 2, abs=400)
    assert last["point"]["ttft_p50_ms"] > 0
    [request] = last["requests"]
    assert (request["outcome"], request["completion_tokens"]) == ("finished", 6)
    assert 0 <= request["prepared_ms"] <= request["enqueued_ms"] <= request["first_token_ms"] <= request["ended_ms"]


async def test_each_key_sees_its_own_requests_and_an_administrator_all_but_nobody_what_was_said(
    valkey_url: str, worker: ScriptedWorker, tmp_path: Path
) -> None:
    async with running_api(valkey_url, api_keys_file=keys_file(tmp_path)) as api:
        for headers in (ANN, BOB):
            await api.http.post(CHAT, json=HI, headers=headers)
        seen = {}
        for name, headers in (("ann", ANN), ("bob", BOB), ("ops", OPS)):
            shown = await picture(api, headers)
            assert "secret" not in json.dumps(shown)
            assert shown["admin"] is (name == "ops")
            seen[name] = [request["tenant"] for request in shown["requests"]]
    assert seen == {"ann": ["ann"], "bob": ["bob"], "ops": ["bob", "ann"]}


async def test_each_key_sees_its_own_batches_and_an_administrator_all(
    valkey_url: str, worker: ScriptedWorker, tmp_path: Path
) -> None:
    async with (
        running_batch_worker(valkey_url, tmp_path),
        running_api(valkey_url, api_keys_file=keys_file(tmp_path), files=tmp_path) as api,
    ):
        made = {}
        for name, headers in (("ann", ANN), ("bob", BOB)):
            files = {"file": ("in.jsonl", chats(3, model="tiny"))}
            file = (await api.http.post("/v1/files", files=files, data={"purpose": "batch"}, headers=headers)).json()
            body = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
            made[name] = (await api.http.post("/v1/batches", json=body, headers=headers)).json()["id"]

        async def both_done() -> bool:
            return [row["status"] for row in (await picture(api, OPS))["batches"]] == ["completed"] * 2

        await eventually(both_done, 15)
        seen = {
            name: [(row["id"], row["tenant"]) for row in (await picture(api, headers))["batches"]]
            for name, headers in (("ann", ANN), ("bob", BOB), ("ops", OPS))
        }
        ann, bob = (made["ann"], "ann"), (made["bob"], "bob")
        assert seen == {"ann": [ann], "bob": [bob], "ops": [bob, ann]}
        [row] = (await picture(api, ANN))["batches"]
        shown = (await api.http.get(f"/v1/batches/{made['ann']}", headers=ANN)).json()
        assert {"total": row["total"], "completed": row["completed"], "failed": row["failed"]} == shown[
            "request_counts"
        ]
        assert (row["created_at"], row["ended_at"]) == (shown["created_at"], shown["completed_at"])
        assert row["items_per_s"] == round(3 / max(shown["finalizing_at"] - shown["in_progress_at"], 1), 3)
        assert (row["left_s"], row["problem"]) == (None, None)


async def test_an_administrator_cancels_anybodys_request_but_does_not_read_its_answer(
    valkey_url: str, tmp_path: Path
) -> None:
    async with (
        running_worker(valkey_url, script=endless) as worker,
        running_api(valkey_url, api_keys_file=keys_file(tmp_path)) as api,
    ):
        streaming = asyncio.create_task(api.http.post(CHAT, json=STREAM, headers=ANN))
        await eventually(lambda: len(worker.claims) == 1)
        path = f"/v1/requests/{worker.claims[0].request_id}"
        assert (await api.http.post(f"{path}/cancel", headers=BOB)).status_code == 404
        assert (await api.http.get(path, headers=OPS)).json()["status"] == "running"
        assert (await api.http.get(f"{path}/stream", headers=OPS)).status_code == 404
        assert (await api.http.post(f"{path}/cancel", headers=OPS)).status_code == 200
        assert '"cancelled"' in (await streaming).text


async def test_dead_letters_are_shown_to_administrators_who_may_try_them_again(
    valkey_url: str, worker: ScriptedWorker, tmp_path: Path
) -> None:
    await worker.stop_claiming()
    await bury(valkey_url, worker.card.queue, "lost", prompt_tokens=3)
    async with running_api(valkey_url, api_keys="plain", api_keys_file=keys_file(tmp_path)) as api:
        for headers in (ANN, {"Authorization": "Bearer plain"}):
            shown = await picture(api, headers)
            assert (shown["dead_letters"], shown["models"][0]["dead_letters"]) == ([], 1)
        [letter] = (await picture(api, OPS))["dead_letters"]
        assert (letter["request_id"], letter["tenant"], letter["lost"]) == ("lost", "ann", 1)
        body = {"queue": letter["queue"], "id": letter["id"]}
        for headers in (ANN, {"Authorization": "Bearer plain"}):
            refused = await api.http.post(RETRY, json=body, headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
        worker.go_on_claiming()
        retried = await api.http.post(RETRY, json=body, headers=OPS)
        assert retried.status_code == 200
        await eventually(lambda: [claim.request_id for claim in worker.claims] == [retried.json()["request_id"]])
        assert (await picture(api, OPS))["dead_letters"] == []
        assert (await api.http.post(RETRY, json=body, headers=OPS)).status_code == 404
        assert (await api.http.post(RETRY, json=body | {"queue": "none"}, headers=OPS)).status_code == 404
        wrong = await api.http.post(RETRY, json={"id": "x"}, headers=OPS)
        assert wrong.status_code == 400
        assert "queue" in wrong.json()["error"]["message"]
        assert "id" in wrong.json()["error"]["message"]


async def test_without_keys_everybody_may_retry_but_no_page_from_elsewhere_can_make_them(
    valkey_url: str, worker: ScriptedWorker
) -> None:
    await worker.stop_claiming()
    await bury(valkey_url, worker.card.queue, "lost")
    async with running_api(valkey_url) as api:
        shown = await picture(api)
        body = {field: shown["dead_letters"][0][field] for field in ("queue", "id")}
        simple = await api.http.post(RETRY, content=json.dumps(body), headers={"Content-Type": "text/plain"})
        assert simple.status_code == 415, "what a browser sends without asking the server first"
        assert (await api.http.post(RETRY, json=body)).status_code == 200


async def test_many_viewers_cost_redis_no_more_than_one(valkey_url: str, worker: ScriptedWorker) -> None:
    await worker.stop_claiming()
    await bury(valkey_url, worker.card.queue, "lost")
    async with running_api(valkey_url) as api:
        with redis.Redis.from_url(valkey_url) as client:
            client.config_resetstat()
            watching = [asyncio.create_task(_look_for(api, 3)) for _ in range(8)]
            shown = await asyncio.gather(*watching)
            reads = client.info("commandstats")["cmdstat_xrevrange"]["calls"]
    assert all(len(each[-1]["dead_letters"]) == 1 for each in shown)
    assert reads <= 2


async def _look_for(api: Api, count: int) -> list[dict[str, Any]]:
    shown = []
    async with aclosing(pictures(api)) as seen:  # type: ignore[type-var]
        async for each in seen:
            shown.append(each)
            if len(shown) == count:
                break
    return shown


async def test_viewers_do_not_hold_up_a_node_that_stops(valkey_url: str, worker: ScriptedWorker) -> None:
    async with running_api(valkey_url, shutdown_grace_s=20) as api:
        watching = asyncio.create_task(_look_for(api, 1000))
        await asyncio.sleep(0.3)
        async with asyncio.timeout(6):
            await api.stop()
        assert await watching, "it ended, neatly"


async def test_a_request_that_runs_is_in_the_picture(valkey_url: str) -> None:
    script = Gated()
    async with running_worker(valkey_url, script=script), running_api(valkey_url) as api:
        streaming = asyncio.create_task(api.http.post(CHAT, json=STREAM))

        async def runs() -> bool:
            return [row["outcome"] for row in (await picture(api))["requests"]] == ["running"]

        await eventually(runs, 10)
        script.go_on.set()
        await streaming


async def test_whoever_looks_for_hours_is_no_slow_request_in_the_metrics(api: Api) -> None:
    await picture(api)
    await api.http.get("/console")
    text = (await api.http.get("/metrics")).text
    assert 'handler="/console"' in text
    assert "/console/events" not in text
