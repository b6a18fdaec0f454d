"""Nothing is generated for nobody: what no API node listens to is ended, unless it was sent to run on."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
from fleet import ApiProcess, fleet_on
from queue_client import QueueClient, generate_job, queue_client
from worker_process import card_of_fleet, workers
from worker_states import until_free, until_running

from headrace_cli.embedded_redis import EmbeddedRedis
from headrace_shared.errors import ErrorCode
from headrace_shared.protocol.event import Event, Failed, Finished

GRACE_S = 1.5
MODEL = "simulated"


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[QueueClient]:
    async with queue_client(valkey_url) as client:
        yield client


async def test_a_killed_api_node_leaves_nothing_running_but_what_was_to_go_on(
    valkey_url: str, client: QueueClient
) -> None:
    with fleet_on(valkey_url) as fleet:
        fleet.worker(simulated_step_ms=10, orphan_grace_s=GRACE_S)
        victim, other = fleet.api(), fleet.api()
        for api in (victim, other):
            await asyncio.to_thread(api.wait_until_ready)
        asking = [asyncio.create_task(_ask(victim, 8000)) for _ in range(8)]
        leaving = asyncio.create_task(_ask(victim, 500, {"X-Headrace-On-Disconnect": "continue"}))
        await until_running(client.presence, 9)
        victim.process.kill()
        begin = time.monotonic()
        await until_running(client.presence, 1, GRACE_S + 1)
        assert time.monotonic() - begin > GRACE_S / 2
        broken = await asyncio.gather(*asking)
        assert not any(answer.whole for answer in broken)
        begun = await leaving
        assert not begun.whole
        rest = _Answer(begun.request_id)
        async with (
            httpx.AsyncClient(base_url=other.url, timeout=20, headers={"Last-Event-ID": begun.last_id}) as http,
            http.stream("GET", f"/v1/requests/{begun.request_id}/stream") as response,
        ):
            await rest.read(response)
        assert rest.whole
        assert len(begun.text + rest.text) == 500 * len(" word")
        await until_free(client.presence)


@dataclass
class _Answer:
    request_id: str
    text: str = ""
    last_id: str = ""
    whole: bool = False

    async def read(self, response: httpx.Response) -> None:
        async for line in response.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                self.last_id = value
            elif value == "[DONE]":
                self.whole = True
            elif name == "data":
                self.text += json.loads(value)["choices"][0]["text"]


async def _ask(api: ApiProcess, tokens: int, headers: dict[str, str] | None = None) -> _Answer:
    """Stream an answer of so many tokens until it ends or breaks off."""
    body = {"model": MODEL, "prompt": "go", "max_tokens": tokens, "ignore_eos": True, "stream": True}
    async with (
        httpx.AsyncClient(base_url=api.url, timeout=20) as http,
        http.stream("POST", "/v1/completions", json=body, headers=headers) as response,
    ):
        answer = _Answer(response.headers["x-request-id"])
        with contextlib.suppress(httpx.TransportError):
            await answer.read(response)
    return answer


async def test_a_request_that_nobody_ever_listened_to_ends_as_cancelled(valkey_url: str, client: QueueClient) -> None:
    with workers(valkey_url, 1, simulated_step_ms=10, orphan_grace_s=0.3):
        card = await card_of_fleet(client.presence, 1)
        await client.queue.enqueue(generate_job(card.queue, "orphan", max_tokens=4000, ignore_eos=True))
        await until_running(client.presence, 1)
        await until_free(client.presence)
        ending = (await _log(client, card.queue, "orphan"))[-1]
    assert isinstance(ending, Failed)
    assert (ending.code, ending.message) == (ErrorCode.CANCELLED, "nobody listens")


async def test_a_listener_that_comes_back_in_time_keeps_its_request(valkey_url: str, client: QueueClient) -> None:
    with workers(valkey_url, 1, simulated_step_ms=10, orphan_grace_s=1.0):
        card = await card_of_fleet(client.presence, 1)
        await client.queue.enqueue(generate_job(card.queue, "r", max_tokens=250, ignore_eos=True))
        await until_running(client.presence, 1)
        await asyncio.sleep(0.5)
        assert isinstance((await _log(client, card.queue, "r"))[-1], Finished)


async def test_a_silent_prefill_is_not_taken_for_an_orphan(valkey_url: str, client: QueueClient) -> None:
    settings = {"max_num_seqs": 4, "max_num_batched_tokens": 16}
    with workers(valkey_url, 1, simulated_step_ms=10, orphan_grace_s=0.2, **settings):
        card = await card_of_fleet(client.presence, 1)
        await client.queue.enqueue(generate_job(card.queue, "r", prompt_tokens=1600))
        await until_running(client.presence, 1)
        await asyncio.sleep(0.5)
        events = await _log(client, card.queue, "r")
    assert isinstance(events[-1], Finished)


@pytest.mark.slow
async def test_a_restart_of_redis_makes_no_orphans(own_valkey: EmbeddedRedis) -> None:
    with workers(own_valkey.url, 1, simulated_step_ms=10, orphan_grace_s=1.5):
        async with queue_client(own_valkey.url) as client:
            card = await card_of_fleet(client.presence, 1)
            jobs = [generate_job(card.queue, f"r{i}", max_tokens=400, ignore_eos=True) for i in range(8)]
            running = [asyncio.create_task(client.run(job)) for job in jobs]
            await until_running(client.presence, 8)
            await asyncio.to_thread(own_valkey.stop)
            await asyncio.sleep(2)  # longer than the grace
            await asyncio.to_thread(own_valkey.start)
            async with asyncio.timeout(20):
                ended = await asyncio.gather(*running)
    assert all(isinstance(events[-1], Finished) for events in ended)


async def _log(client: QueueClient, queue: str, request_id: str) -> list[Event]:
    """Everything that was said about a request, from its beginning to its end."""
    stream = await client.hub.open(queue, request_id)
    await stream.replay_from(1)
    async with asyncio.timeout(15):
        return [event async for frame in stream for event in frame]
