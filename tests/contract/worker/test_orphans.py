"""Nothing is generated for nobody: what no API node listens to is ended, unless it was sent to run on."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
import redis
from eventually import eventually
from fleet import ApiProcess, fleet_on
from queue_client import QueueClient, generate_job, queue_client
from worker_process import card_of_fleet, workers
from worker_states import until_free, until_running

from headrace_cli.embedded_redis import EmbeddedRedis
from headrace_shared.errors import ErrorCode
from headrace_shared.protocol.event import Event, Failed, Finished
from headrace_shared.queue import keys

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


async def _ask_whole(
    api: ApiProcess, fields: dict[str, object], headers: dict[str, str] | None = None
) -> httpx.Response | None:
    """An answer that comes in one piece; None when the connection broke."""
    body = {"model": MODEL, "prompt": "go", "max_tokens": 1} | fields
    async with httpx.AsyncClient(base_url=api.url, timeout=40) as http:
        try:
            return await http.post("/v1/completions", json=body, headers=headers)
        except httpx.TransportError:
            return None


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


@pytest.mark.parametrize(
    "silence",
    [
        pytest.param({"prompt": "a " * 4000}, id="long prefill"),
        pytest.param({"use_beam_search": True, "n": 2, "max_tokens": 4000, "ignore_eos": True}, id="beam search"),
    ],
)
async def test_what_says_nothing_is_ended_too_when_its_api_node_is_killed(
    valkey_url: str, client: QueueClient, silence: dict[str, object]
) -> None:
    """Each would take ten seconds or more until it says something."""
    with fleet_on(valkey_url) as fleet:
        fleet.worker(simulated_step_ms=20, orphan_grace_s=GRACE_S, max_num_seqs=8, max_num_batched_tokens=8)
        victim, other = fleet.api(), fleet.api()
        for api in (victim, other):
            await asyncio.to_thread(api.wait_until_ready)
        card = await card_of_fleet(client.presence, 1)

        async def running(count: int) -> bool:
            return (await client.queue.depth(card.queue)).running == count

        orphan = asyncio.create_task(_ask_whole(victim, silence))
        await eventually(lambda: running(1))
        shorter = silence | ({"max_tokens": 200} if "n" in silence else {"prompt": "a " * 1600})
        leaving = asyncio.create_task(_ask_whole(victim, shorter, {"X-Headrace-On-Disconnect": "continue"}))
        heard = asyncio.create_task(_ask_whole(other, shorter))
        await eventually(lambda: running(3))
        victim.process.kill()
        begin = time.monotonic()
        await eventually(lambda: running(2), GRACE_S + 1.5)
        assert time.monotonic() - begin > GRACE_S / 2
        assert await orphan is await leaving is None
        answer = await heard
        assert answer is not None
        assert answer.status_code == 200
        await until_free(client.presence, 15)
    assert await _endings(client, card.queue, valkey_url) == {"Failed": 1, "Finished": 2}


async def test_a_long_silence_is_no_orphan_while_somebody_listens_through_reconnects(
    valkey_url: str, client: QueueClient
) -> None:
    settings = {"max_num_seqs": 4, "max_num_batched_tokens": 16}
    with workers(valkey_url, 1, simulated_step_ms=10, orphan_grace_s=0.5, **settings):
        card = await card_of_fleet(client.presence, 1)
        running = asyncio.create_task(client.run(generate_job(card.queue, "r", prompt_tokens=4000)))
        await until_running(client.presence, 1)
        with redis.Redis.from_url(valkey_url) as server:
            for _ in range(8):
                await asyncio.sleep(0.25)
                assert server.execute_command("CLIENT", "KILL", "TYPE", "pubsub") > 0
        assert not running.done(), "the prefill was longer than that"
        async with asyncio.timeout(15):
            events = await running
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


async def _endings(client: QueueClient, queue: str, valkey_url: str) -> Counter[str]:
    """How all requests have ended, by the names of their last events."""
    prefix = keys.token_log(queue, "")
    with redis.Redis.from_url(valkey_url) as server:
        ids = [key.decode().removeprefix(prefix) for key in server.scan_iter(f"{prefix}*")]
    return Counter([type((await _log(client, queue, request_id))[-1]).__name__ for request_id in ids])


async def _log(client: QueueClient, queue: str, request_id: str) -> list[Event]:
    """Everything that was said about a request, from its beginning to its end."""
    stream = await client.hub.open(queue, request_id)
    await stream.replay_from(1)
    async with asyncio.timeout(15):
        return [event async for frame in stream for event in frame]
