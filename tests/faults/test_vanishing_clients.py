"""Clients that vanish at every point of a request leave nothing behind: no work, no memory, no keys."""

import asyncio
import json
import struct
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from random import Random
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import pytest
import redis
from eventually import eventually
from live_api import Api, running_api
from worker_process import workers

from headrace_shared.settings import QueueSettings

MODEL = "simulated"
CASES = 150
TOGETHER = 12
RST = struct.pack("ii", 1, 0)

MARKS = (
    b"HTTP/1.1",
    b"\r\n\r\n",
    b"data: ",
    b'"delta"',
    b"}\n\n",
    b'"choices":[],',
    b'"completion_tokens":',
    b"[DONE]",
)
"""Where an answer is left: in its head, after it, inside an event, between two, at the last ones."""


@dataclass
class Case:
    """One client. ``sent``: how much of its request it gets out; ``until``: what it still reads."""

    request: bytes
    sent: int
    until: bytes | int | None
    rude: bool
    """Leaves with a reset instead of an end."""


def case(random: Random) -> Case:
    chat = random.random() < 0.6
    body: dict[str, Any] = {"model": MODEL, "n": random.choice((1, 1, 3))}
    # Most would run for a minute.
    body["max_tokens"], body["ignore_eos"] = (5, False) if random.random() < 0.3 else (7000, True)
    if chat:
        body["messages"] = [{"role": "user", "content": "hello " * random.randrange(1, 50)}]
    else:
        body["prompt"] = ["hello"] * random.choice((1, 3))
    if random.random() < 0.75:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if random.random() < 0.2:
        body["logprobs"] = True if chat else 2
    payload = json.dumps(body).encode()
    path = b"/v1/chat/completions" if chat else b"/v1/completions"
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    request = head % (path, len(payload)) + payload
    sent = random.randrange(len(request)) if random.random() < 0.2 else len(request)
    return Case(request, sent, random.choice((None, random.randrange(1, 4000), *MARKS)), random.random() < 0.5)


async def vanish(port: int, case: Case, random: Random) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    writer.write(case.request[: case.sent])
    await writer.drain()
    try:
        async with asyncio.timeout(1):
            if isinstance(case.until, int):
                await reader.readexactly(case.until)
            elif case.until is not None and case.sent == len(case.request):
                await reader.readuntil(case.until)
    except (TimeoutError, asyncio.IncompleteReadError):
        pass  # What it waits for does not come in this answer.
    await asyncio.sleep(random.choice((0, 0, 0.01)))
    if case.rude:
        writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, RST)
        writer.transport.abort()
    else:
        writer.close()


@dataclass
class Traces:
    """All that a request could leave behind, in every process that had to do with it."""

    tasks: Counter[str]
    generations: int
    streams: int
    subscriptions: set[bytes]
    channels: set[bytes]
    keys: set[bytes]
    load: tuple[int, int, int]
    """Running, waiting and free blocks at the worker."""
    queued: int
    in_flight: str


async def traces(api: Api, server: "redis.Redis[bytes]") -> Traces:
    services = api.services()
    hub = services.dispatcher._hub
    assert hub._sweeper is not None
    metrics = (await api.http.get("/metrics")).text
    [model] = (await api.http.get("/ready")).json()["models"]
    [load] = model["workers"]
    return Traces(
        tasks=Counter(task.get_coro().__qualname__ for task in asyncio.all_tasks(hub._sweeper.get_loop())),  # type: ignore[union-attr]
        generations=len(services.dispatcher._running),
        streams=len(hub._streams),
        subscriptions=set(hub._subscriber._homes) | set(hub._subscriber._waiters),
        channels=set(server.execute_command("PUBSUB", "SHARDCHANNELS")),
        keys=set(server.scan_iter(count=1000)),
        load=(load["running"], load["waiting"], load["kv_blocks_free"]),
        queued=(await api.http.get(f"/autoscale/{MODEL}")).json()["queued_requests"],
        in_flight="\n".join(line for line in metrics.splitlines() if "in_flight{" in line or "sse_clients " in line),
    )


@pytest.fixture
async def api(valkey_url: str) -> AsyncIterator[Api]:
    """Forgets finished answers after a second."""
    limits = QueueSettings(replay_ttl_s=1)
    with workers(valkey_url, 1, lease_ms=5000):
        async with running_api(valkey_url, queue=limits, disconnect_linger_s=0.1) as api:
            await eventually(lambda: _is_ready(api), 30)
            yield api


@pytest.mark.parametrize("seed", [1, 2])
async def test_nothing_is_left_of_clients_that_vanish(api: Api, valkey_url: str, seed: int) -> None:
    random = Random(seed)
    port = int(api.base_url.rpartition(":")[2])
    with redis.Redis.from_url(valkey_url) as server:
        undisturbed = await _answer(api)
        before = await _settled(api, server)
        waiting = [case(random) for _ in range(CASES)]

        async def one_after_another() -> None:
            while waiting:
                await vanish(port, waiting.pop(), random)

        await asyncio.gather(*(one_after_another() for _ in range(TOGETHER)))
        after: Traces | None = None
        try:
            async with asyncio.timeout(15):
                while after != before:
                    after = await traces(api, server)
                    await asyncio.sleep(0.05)
        except TimeoutError:
            assert after == before
        assert await _answer(api) == undisturbed


async def _settled(api: Api, server: "redis.Redis[bytes]") -> Traces:
    """How it is when nothing happens: twice the same, long enough apart for answers to be forgotten."""
    found = await traces(api, server)
    while True:
        await asyncio.sleep(1.2)
        again = await traces(api, server)
        if again == found:
            return found
        found = again


async def _answer(api: Api) -> str:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "seed": 1, "max_tokens": 20}
    answer = await api.http.post("/v1/chat/completions", json=body)
    return str(answer.json()["choices"])


async def _is_ready(api: Api) -> bool:
    return (await api.http.get("/ready")).status_code == 200
