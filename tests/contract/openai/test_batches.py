"""/v1/batches over HTTP: what can be asked for, whose it is, how it is worked on."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from batching import OVER, chats, item, results, running_batch_worker
from eventually import eventually
from live_api import Api, data_lines, running_api
from redis.asyncio import Redis
from scripted_worker import Gated, ScriptedWorker, running_worker

from headrace_api.batches.worker import BatchWorker
from headrace_api.operations.services import Services
from headrace_shared.queue import keys
from headrace_shared.queue.client import connect
from headrace_shared.queue.nodes import Nodes
from headrace_shared.settings import QueueSettings, RedisSettings

HI: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
BATCH = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}


async def upload(api: Api, content: bytes, **headers: str) -> str:
    files = {"file": ("in.jsonl", content)}
    response = await api.http.post("/v1/files", files=files, data={"purpose": "batch"}, headers=headers)
    made: str = response.json()["id"]
    return made


async def create(api: Api, content: bytes, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    file_id = await upload(api, content, **(headers or {}))
    return await api.http.post("/v1/batches", json=BATCH | {"input_file_id": file_id} | fields, headers=headers)


async def over(api: Api, batch_id: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def is_over() -> bool:
        found.update((await api.http.get(f"/v1/batches/{batch_id}", headers=headers)).json())
        return found["status"] in OVER

    await eventually(is_over, 20)
    return found


async def one_waits(services: Services, worker: ScriptedWorker) -> bool:
    depth = await services.queue.depth(worker.card.queue)
    return (depth.queued_requests, depth.running) == (1, 0)


@pytest.fixture
async def served(valkey_url: str, worker: ScriptedWorker, tmp_path: Path) -> AsyncIterator[Api]:
    """An API node with a batch worker beside it."""
    async with running_api(valkey_url, files=tmp_path) as api, running_batch_worker(valkey_url, tmp_path):
        yield api


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"completion_window": "1y"}, "completion_window"),
        ({"completion_window": "8d"}, "completion_window"),
        ({"completion_window": 24}, "completion_window"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
        ({"input_file_id": None}, "input_file_id"),
    ],
)
async def test_a_batch_that_cannot_be_is_400_with_the_fields_name(api: Api, fields: dict[str, Any], param: str) -> None:
    response = await create(api, chats(1), **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text


async def test_an_endpoint_that_is_not_served_is_refused_with_those_that_are(api: Api) -> None:
    message = (await create(api, chats(1), endpoint="/v1/embeddings")).json()["error"]["message"]
    for endpoint in ("/v1/chat/completions", "/v1/completions", "/v1/responses"):
        assert endpoint in message


async def test_an_input_has_to_be_there_and_for_batches(api: Api) -> None:
    response = await api.http.post("/v1/batches", json=BATCH | {"input_file_id": "file-nothing"})
    assert (response.status_code, response.json()["error"]["param"]) == (404, "input_file_id")
    kept = await api.http.post("/v1/files", files={"file": ("a.txt", b"x")}, data={"purpose": "user_data"})
    response = await api.http.post("/v1/batches", json=BATCH | {"input_file_id": kept.json()["id"]})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "input_file_id")
    assert (await api.http.get("/v1/batches/batch_nothing")).status_code == 404


async def test_a_body_in_a_batch_is_the_body_of_the_endpoint_byte_for_byte(served: Api) -> None:
    asked = HI | {"seed": 3, "logprobs": True, "top_logprobs": 2, "n": 2, "return_token_ids": True}
    batch = await over(served, (await create(served, item("a", asked).encode())).json()["id"])
    text = (await served.http.get(f"/v1/files/{batch['output_file_id']}/content")).text
    body = results(text)["a"]["response"]["body"]
    direct = (await served.http.post("/v1/chat/completions", json=asked)).text
    named = json.loads(direct)
    expected = direct.replace(named["id"], body["id"]).replace(str(named["created"]), str(body["created"]))
    assert f'"body":{expected}}},"error":null}}\n' in text


async def test_items_are_background_work_of_their_tenant_behind_everybody_else(
    served: Api, worker: ScriptedWorker
) -> None:
    batch = await create(served, item("a", HI).encode(), {"X-Headrace-Tenant": "ann"})
    await over(served, batch.json()["id"])
    header = worker.jobs[0].header
    assert (header.priority, header.tenant, header.background, header.detached) == (100, "ann", True, True)


async def test_items_are_linked_to_the_trace_that_their_batch_came_with_and_not_part_of_it(
    served: Api, worker: ScriptedWorker
) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    content = "\n".join(item(name, HI) for name in "ab").encode()
    batch = await create(served, content, {"traceparent": traceparent})
    await over(served, batch.json()["id"])
    assert [(job.header.linked, job.header.traceparent) for job in worker.jobs] == [(traceparent, None)] * 2


async def test_an_item_that_finds_no_worker_waits_for_one(valkey_url: str, tmp_path: Path) -> None:
    async def no_model(api: Api) -> bool:
        return (await api.http.get("/v1/models")).json()["data"] == []

    one_by_one = running_batch_worker(valkey_url, tmp_path, batch_window=1)
    async with running_api(valkey_url, files=tmp_path) as api, one_by_one as services:
        gate = Gated()
        async with running_worker(valkey_url, script=gate) as first:
            content = "\n".join(item(name, HI) for name in "abc").encode()
            batch = (await create(api, content)).json()
            await eventually(lambda: len(first.claims) == 1)
            await first.stop_claiming()
            gate.go_on.set()
            await eventually(lambda: one_waits(services, first))
        await eventually(lambda: no_model(api))
        await asyncio.sleep(1)
        async with running_worker(valkey_url):
            found = await over(api, batch["id"])
    assert (found["status"], found["request_counts"]) == ("completed", {"total": 3, "completed": 3, "failed": 0})


async def test_a_full_queue_is_no_failure_of_an_item(valkey_url: str, worker: ScriptedWorker, tmp_path: Path) -> None:
    narrow = running_batch_worker(valkey_url, tmp_path, queue=QueueSettings(max_requests=2))
    async with running_api(valkey_url, files=tmp_path) as api, narrow as services:
        await worker.stop_claiming()
        content = b"\n".join(item(str(n), HI).encode() for n in range(30))
        batch = (await create(api, content)).json()
        await eventually(lambda: full(services, worker))
        worker.go_on_claiming()
        found = await over(api, batch["id"])
    assert found["request_counts"] == {"total": 30, "completed": 30, "failed": 0}


async def full(services: Services, worker: ScriptedWorker) -> bool:
    return (await services.queue.depth(worker.card.queue)).queued_requests == 2


async def test_what_is_safe_in_a_file_is_not_kept_in_redis_too(served: Api, valkey_url: str) -> None:
    await over(served, (await create(served, chats(30, model="tiny"))).json()["id"])
    async with Redis.from_url(valkey_url) as redis:

        async def nothing_is_left() -> bool:
            keys = [key async for key in redis.scan_iter("*batch_*")]
            return all(b":batch:" in key or b":batches:" in key for key in keys)

        # A job that was announced once more while it was taken up goes by itself.
        await eventually(nothing_is_left)


async def test_a_response_that_is_stored_can_be_fetched_after_its_batch(served: Api) -> None:
    content = item("a", {"model": "tiny", "input": "hi"}, "/v1/responses").encode()
    batch = await over(served, (await create(served, content, endpoint="/v1/responses")).json()["id"])
    text = (await served.http.get(f"/v1/files/{batch['output_file_id']}/content")).text
    body = results(text)["a"]["response"]["body"]
    assert (await served.http.get(f"/v1/responses/{body['id']}")).json() == body


async def test_what_has_expired_and_what_is_left_over_is_swept_away(
    valkey_url: str, worker: ScriptedWorker, tmp_path: Path
) -> None:
    async with running_api(valkey_url, files=tmp_path) as api, running_batch_worker(valkey_url, tmp_path) as services:
        batch = await over(api, (await create(api, chats(3, model="tiny"))).json()["id"])
        kept = {path.name for path in (tmp_path / "files").iterdir()}
        assert kept == {batch["input_file_id"], batch["output_file_id"]}
        assert len(list((tmp_path / "batches" / batch["id"]).iterdir())) > 0
        async with Redis.from_url(valkey_url) as redis:
            # As if their time was over.
            await redis.zadd(keys.trash(), {f"batches/{batch['id']}/": 1, f"files/{batch['output_file_id']}": 1})
            await redis.zadd(keys.file_expiry(), {batch["input_file_id"]: 1})
        await BatchWorker(services).sweep()
        # The output is a file that somebody can ask for, whatever the trash says.
        assert {path.name for path in (tmp_path / "files").iterdir()} == {batch["output_file_id"]}
        assert not (tmp_path / "batches" / batch["id"]).exists()
        assert (await api.http.get(f"/v1/files/{batch['input_file_id']}")).status_code == 404
        assert (await api.http.get(f"/v1/files/{batch['output_file_id']}/content")).status_code == 200


async def test_what_was_written_and_does_not_count_is_in_no_file(served: Api, tmp_path: Path) -> None:
    batch = (await create(served, chats(3, model="tiny"))).json()
    stray = tmp_path / "batches" / batch["id"] / "1-00000001.output"
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(b"of an owner that has died before it counted\n")
    found = await over(served, batch["id"])
    text = (await served.http.get(f"/v1/files/{found['output_file_id']}/content")).text
    assert set(results(text)) == {"item-0", "item-1", "item-2"}


async def test_a_model_that_nobody_serves_fails_the_batch(
    valkey_url: str, worker: ScriptedWorker, tmp_path: Path
) -> None:
    async with (
        running_api(valkey_url, files=tmp_path) as api,
        running_batch_worker(valkey_url, tmp_path, no_worker_grace_s=0.5),
    ):
        batch = await over(api, (await create(api, item("a", HI | {"model": "nobody"}).encode())).json()["id"])
    assert batch["status"] == "failed"
    assert [(error["code"], error["param"]) for error in batch["errors"]["data"]] == [("model_not_found", "body.model")]


@pytest.mark.parametrize(
    ("limits", "content", "code"),
    [
        ({"batch_items": 3}, chats(4, model="tiny"), "item_limit_exceeded"),
        ({"batch_tokens": 50}, chats(4, model="tiny"), "token_limit_exceeded"),
    ],
)
async def test_a_client_has_limits_of_what_its_batches_may_hold(
    valkey_url: str, worker: ScriptedWorker, tmp_path: Path, limits: dict[str, int], content: bytes, code: str
) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"ann": {"key": "a"} | limits}))
    headers = {"Authorization": "Bearer a"}
    files = tmp_path / "files"
    async with (
        running_api(valkey_url, files=files, api_keys_file=str(path)) as api,
        running_batch_worker(valkey_url, files),
    ):
        for _ in range(2):
            batch = await over(api, (await create(api, content, headers)).json()["id"], headers)
            assert (batch["status"], batch["errors"]["data"][0]["code"]) == ("failed", code)
        small = await over(api, (await create(api, chats(1, model="tiny"), headers)).json()["id"], headers)
        assert small["status"] == "completed"
        # What is over counts no more.
        small = await over(api, (await create(api, chats(1, model="tiny"), headers)).json()["id"], headers)
        assert small["status"] == "completed"


async def test_batches_of_others_are_not_there_but_for_administrators(
    valkey_url: str, worker: ScriptedWorker, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"ann": {"key": "a"}, "bob": {"key": "b"}, "root": {"key": "r", "admin": True}}))
    async with running_api(valkey_url, api_keys_file=str(path)) as api:
        batch = (await create(api, chats(1), {"Authorization": "Bearer a"})).json()
        for key, status, count in (("a", 200, 1), ("b", 404, 0), ("r", 200, 0)):
            headers = {"Authorization": f"Bearer {key}"}
            assert (await api.http.get(f"/v1/batches/{batch['id']}", headers=headers)).status_code == status
            assert len((await api.http.get("/v1/batches", headers=headers)).json()["data"]) == count
            if key != "a":
                cancelled = await api.http.post(f"/v1/batches/{batch['id']}/cancel", headers=headers)
                assert cancelled.status_code == status


async def test_a_batch_tells_its_changes_until_it_is_over(served: Api) -> None:
    batch = (await create(served, chats(30, model="tiny"))).json()
    seen = []
    async with served.http.stream("GET", f"/v1/batches/{batch['id']}/events") as stream:
        async for line in stream.aiter_lines():
            seen += [json.loads(data) for data in data_lines(line)]
    assert seen[-1]["status"] == "completed"
    assert seen[-1]["request_counts"]["completed"] == 30
    assert seen[-1] == (await served.http.get(f"/v1/batches/{batch['id']}")).json()
    counts = [each["request_counts"]["completed"] for each in seen]
    assert counts == sorted(counts)


async def test_a_cancelled_batch_stops_what_is_running_and_what_waits(valkey_url: str, tmp_path: Path) -> None:
    gate = Gated()
    async with (
        running_worker(valkey_url, script=gate) as worker,
        running_api(valkey_url, files=tmp_path) as api,
        running_batch_worker(valkey_url, tmp_path, batch_lease_s=1) as services,
    ):
        content = b"\n".join(item(str(n), HI).encode() for n in range(80))
        batch = (await create(api, content)).json()
        await eventually(lambda: len(worker.claims) >= 64)
        await api.http.post(f"/v1/batches/{batch['id']}/cancel")
        # Nobody tells from outside when the batch worker has heard of it; it asks several times a second.
        await asyncio.sleep(3)
        # Its next frame tells a worker that missed it.
        gate.go_on.set()
        found = await over(api, batch["id"])
        assert found["status"] == "cancelled"
        counts = found["request_counts"]
        assert counts["completed"] + counts["failed"] == counts["total"] == 80
        assert counts["failed"] > 0

        async def nothing_is_left() -> bool:
            depth = await services.queue.depth(worker.card.queue)
            return (depth.queued_requests, depth.running) == (0, 0)

        await eventually(nothing_is_left)


@pytest.mark.parametrize("on_purpose", [True, False])
async def test_an_item_is_asked_again_when_its_request_was_given_up_but_not_by_hand(
    valkey_url: str, tmp_path: Path, on_purpose: bool
) -> None:
    async with (
        running_worker(valkey_url) as idle,
        running_api(valkey_url, files=tmp_path) as api,
        running_batch_worker(valkey_url, tmp_path) as services,
    ):
        await idle.stop_claiming()
        batch = (await create(api, item("one", HI).encode())).json()
        await eventually(lambda: one_waits(services, idle), 20)
        request_id = f"{batch['id']}-1"
        if on_purpose:
            assert (await api.http.post(f"/v1/requests/{request_id}/cancel")).status_code == 200
        else:
            await services.queue.cancel(idle.card.queue, request_id, "the client went away")
        async with running_worker(valkey_url) as worker:
            counts = (await over(api, batch["id"]))["request_counts"]
    assert counts == {"total": 1, "completed": int(not on_purpose), "failed": int(on_purpose)}
    assert [claim.request_id for claim in worker.claims] == ([] if on_purpose else [f"{request_id}.2"])


async def test_results_are_deleted_when_their_time_is_over(served: Api) -> None:
    expires = {"anchor": "created_at", "seconds": 3600}
    batch = await over(
        served, (await create(served, chats(1, model="tiny"), output_expires_after=expires)).json()["id"]
    )
    output = (await served.http.get(f"/v1/files/{batch['output_file_id']}")).json()
    assert (output["purpose"], output["expires_at"]) == ("batch_output", output["created_at"] + 3600)
    assert output["filename"] == f"{batch['id']}_output.jsonl"


async def test_consoles_hear_nothing_of_what_items_wait_for(valkey_url: str, tmp_path: Path) -> None:
    async with running_batch_worker(valkey_url, tmp_path), connect(RedisSettings(url=valkey_url)) as redis:
        await asyncio.sleep(0.5)
        assert await Nodes(redis).tell("one that listens", b"", 1000) == {}
