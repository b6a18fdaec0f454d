"""Responses without a client: queued at once, fetched later, from any node, whatever becomes of the first one."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import openai
import pytest
from eventually import eventually
from fleet import ApiProcess
from live_api import Api, running_api
from openai.types.responses import Response
from redis.asyncio import Redis
from scripted_worker import Gated, ScriptedWorker, running_worker, say

from headrace_shared.protocol.event import Event
from headrace_shared.queue.claims import Claim
from headrace_shared.settings import QueueSettings

RESPONSES = "/v1/responses"
BODY: dict[str, Any] = {"model": "tiny", "input": "hi", "background": True}


@pytest.fixture
def gate() -> Gated:
    return Gated()


@pytest.fixture
async def worker(valkey_url: str, gate: Gated) -> AsyncIterator[ScriptedWorker]:
    async with running_worker(valkey_url, script=gate) as worker:
        yield worker


@pytest.fixture
async def other(valkey_url: str, worker: ScriptedWorker) -> AsyncIterator[Api]:
    """A second API node."""
    async with running_api(valkey_url) as api:
        yield api


async def status_of(api: Api, response_id: str) -> str:
    return str((await api.sdk.responses.retrieve(response_id)).status)


async def until(api: Api, response_id: str, status: str) -> Response:
    async def reached() -> bool:
        return await status_of(api, response_id) == status

    await eventually(reached)
    response: Response = await api.sdk.responses.retrieve(response_id)
    return response


def blocks_of(text: str) -> list[str]:
    return [block for block in text.split("\n\n") if block]


async def test_it_is_queued_at_once_and_complete_later(api: Api, other: Api, gate: Gated) -> None:
    queued = await api.sdk.responses.create(**BODY)
    assert (queued.status, queued.background, queued.output) == ("queued", True, [])
    running = await until(other, queued.id, "in_progress")
    assert running.output == []
    with pytest.raises(openai.BadRequestError, match="running"):
        await other.sdk.responses.create(model="tiny", input="and?", previous_response_id=queued.id)
    gate.go_on.set()
    done = await until(other, queued.id, "completed")
    assert done.output_text == "Hello!"


async def test_a_stream_that_is_left_and_taken_up_again_is_byte_for_byte_the_same(
    api: Api, other: Api, gate: Gated
) -> None:
    async with api.http.stream("POST", RESPONSES, json=BODY | {"stream": True}) as response:
        request_id = response.headers["x-headrace-request-id"]
        begun = await anext(response.aiter_text())
    assert [json.loads(block.split("\n")[2][6:])["type"] for block in blocks_of(begun)][:2] == [
        "response.created",
        "response.queued",
    ]
    following = asyncio.create_task(other.http.get(f"{RESPONSES}/resp_{request_id}", params={"stream": "true"}))
    await asyncio.sleep(0.5)
    gate.go_on.set()
    blocks = blocks_of((await following).text)
    types = [json.loads(block.split("\n")[2][6:])["type"] for block in blocks]
    assert types[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert types[-1] == "response.completed"
    for number in range(len(blocks)):
        params = {"stream": "true", "starting_after": str(number)}
        rest = await api.http.get(f"{RESPONSES}/resp_{request_id}", params=params)
        assert blocks_of(rest.text) == blocks[number + 1 :]


async def test_it_goes_on_when_its_node_is_killed(valkey_url: str, other: Api, gate: Gated) -> None:
    first = ApiProcess(valkey_url)
    try:
        await asyncio.to_thread(first.wait_until_ready)
        async with first.async_client() as client:
            queued = await client.responses.create(**BODY)
            await until(other, queued.id, "in_progress")
    finally:
        first.process.kill()
        first.process.wait()
    gate.go_on.set()
    done = await until(other, queued.id, "completed")
    assert done.output_text == "Hello!"
    again = await other.sdk.responses.create(model="tiny", input="and?", previous_response_id=queued.id)
    assert again.previous_response_id == queued.id


async def test_it_is_cancelled_on_any_node(api: Api, other: Api, gate: Gated, worker: ScriptedWorker) -> None:
    queued = await api.sdk.responses.create(**BODY)
    await until(other, queued.id, "in_progress")
    cancelling = asyncio.create_task(other.sdk.responses.cancel(queued.id))
    await asyncio.sleep(0.2)
    gate.go_on.set()
    cancelled = await cancelling
    assert (cancelled.status, cancelled.error) == ("cancelled", None)
    assert worker.cancelled == [queued.id.removeprefix("resp_")]
    assert await status_of(api, queued.id) == "cancelled"
    assert (await api.sdk.responses.cancel(queued.id)).status == "cancelled"


async def test_what_waits_is_cancelled_before_it_begins(api: Api, worker: ScriptedWorker) -> None:
    await worker.stop_claiming()
    queued = await api.sdk.responses.create(**BODY)
    assert (await api.sdk.responses.cancel(queued.id)).status == "cancelled"
    assert worker.claims == []


async def test_only_what_runs_in_the_background_can_be_cancelled(api: Api, gate: Gated) -> None:
    gate.go_on.set()
    response = await api.sdk.responses.create(model="tiny", input="hi")
    with pytest.raises(openai.BadRequestError, match="background"):
        await api.sdk.responses.cancel(response.id)


async def test_what_is_deleted_while_it_runs_is_stopped(api: Api, gate: Gated, worker: ScriptedWorker) -> None:
    queued = await api.sdk.responses.create(**BODY)
    await until(api, queued.id, "in_progress")
    await api.sdk.responses.delete(queued.id)
    with pytest.raises(openai.NotFoundError):
        await api.sdk.responses.retrieve(queued.id)
    gate.go_on.set()
    await eventually(lambda: len(worker.cancelled) == 1)


async def test_a_response_is_kept_for_its_own_time_and_others_for_theirs(valkey_url: str, gate: Gated) -> None:
    gate.go_on.set()
    queue = QueueSettings(replay_ttl_s=50)
    async with (
        running_worker(valkey_url, script=gate),
        running_api(valkey_url, queue, response_store_ttl_s=500) as api,
        Redis.from_url(valkey_url) as redis,
    ):
        stored = await api.sdk.responses.create(model="tiny", input="hi")
        loose = await api.sdk.responses.create(model="tiny", input="hi", store=False)
        for response, least, most in ((stored, 490, 500), (loose, 40, 50)):
            names = [name async for name in redis.scan_iter(f"*{response.id.removeprefix('resp_')}")]
            assert len(names) == 3
            for name in names:
                assert least <= await redis.ttl(name) <= most


async def test_a_node_that_stores_nothing_says_so(valkey_url: str, gate: Gated) -> None:
    gate.go_on.set()
    async with running_worker(valkey_url, script=gate), running_api(valkey_url, response_store_ttl_s=0) as api:
        with pytest.raises(openai.BadRequestError, match="stores no responses"):
            await api.sdk.responses.create(**BODY)
        response = await api.http.post(RESPONSES, json={"input": "hi"})
        assert response.json()["store"] is False
        assert (await api.http.get(f"{RESPONSES}/{response.json()['id']}")).status_code == 404


async def test_it_is_put_on_the_queue_again_when_redis_has_lost_everything(valkey_url: str) -> None:
    async def hangs_at_first(worker: ScriptedWorker, claim: Claim) -> AsyncGenerator[list[Event], None]:
        async for events in say(claim.job, "Hello!"):
            if len(worker.claims) == 1:
                await asyncio.Event().wait()
            yield events

    async with running_worker(valkey_url, script=hangs_at_first) as worker, running_api(valkey_url) as api:
        queued = await api.sdk.responses.create(**BODY)
        await eventually(lambda: len(worker.claims) == 1)
        async with Redis.from_url(valkey_url) as redis:
            await redis.flushall()
        async with asyncio.timeout(20):
            while True:
                try:
                    if await status_of(api, queued.id) == "completed":
                        break
                except openai.APIStatusError:
                    pass
                await asyncio.sleep(0.1)
        assert (await api.sdk.responses.retrieve(queued.id)).output_text == "Hello!"
