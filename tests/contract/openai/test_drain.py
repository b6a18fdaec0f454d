"""An API process that is told to stop: what it says, to whom, and what goes on without it."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from eventually import eventually
from live_api import data_lines, running_api
from scripted_worker import ScriptedWorker, running_worker

from headrace_shared.protocol.event import Delta, Event, Finished, FinishReason, Started
from headrace_shared.queue.claims import Claim

HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
STREAM = HI | {"stream": True}
CHAT = "/v1/chat/completions"


class Slowed:
    """Answers ``ab`` and the rest, ``cd``, when it is let go on."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, _worker: ScriptedWorker, _claim: Claim) -> AsyncGenerator[list[Event], None]:
        yield [Started("scripted")]
        yield [Delta(0, [97], "a")]
        yield [Delta(0, [98], "b")]
        await self.go_on.wait()
        yield [Delta(0, [99], "c")]
        yield [Delta(0, [100], "d", None, FinishReason.STOP)]
        yield [Finished(5, 4)]


async def until_claimed(worker: ScriptedWorker, count: int = 1) -> None:
    await eventually(lambda: len(worker.claims) == count)


def text_of(body: str) -> str:
    chunks = [json.loads(line) for line in data_lines(body) if line != "[DONE]"]
    return "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks if chunk.get("choices"))


async def test_a_node_that_drains_says_so_and_still_serves_for_a_moment(valkey_url: str) -> None:
    async with (
        running_worker(valkey_url),
        running_api(valkey_url, drain_delay_s=1.0) as api,
    ):
        assert (await api.http.get("/ready")).json()["draining"] is False
        stopping = asyncio.create_task(api.stop())

        async def draining() -> bool:
            return (await api.http.get("/ready")).status_code == 503

        await eventually(draining)
        ready = (await api.http.get("/ready")).json()
        assert (ready["ready"], ready["draining"], ready["missing"]) == (False, True, ["this node is draining"])
        assert (await api.http.post(CHAT, json=HI)).status_code == 200
        assert (await api.http.get("/health")).status_code == 200
        await stopping


async def test_streams_that_end_within_the_grace_notice_nothing(valkey_url: str) -> None:
    script = Slowed()
    async with running_worker(valkey_url, script=script) as worker, running_api(valkey_url, shutdown_grace_s=5) as api:
        streaming = asyncio.create_task(api.http.post(CHAT, json=STREAM))
        await until_claimed(worker)
        stopping = asyncio.create_task(api.stop())
        await asyncio.sleep(0.15)
        script.go_on.set()
        assert text_of((await streaming).text) == "abcd"
        await stopping


async def test_a_stream_that_is_broken_off_goes_on_elsewhere(valkey_url: str) -> None:
    script = Slowed()
    async with running_worker(valkey_url, script=script) as worker, running_api(valkey_url) as other:
        async with running_api(valkey_url, shutdown_grace_s=0) as api:
            streaming = asyncio.create_task(api.http.post(CHAT, json=STREAM))
            await until_claimed(worker)
            await asyncio.sleep(0.1)
            await api.stop()
            first = (await streaming).text
        *_, error, done = data_lines(first)
        assert done == "[DONE]"
        told = json.loads(error)["error"]
        assert told["code"] == "unavailable"
        script.go_on.set()
        last_id = [line.removeprefix("id: ") for line in first.split("\n") if line.startswith("id: ")][-1]
        rest = await other.http.get(told["resume"], headers={"Last-Event-ID": last_id})
        assert text_of(first) + text_of(rest.text) == "abcd"
        assert worker.cancelled == []


async def test_a_whole_answer_with_a_key_can_be_fetched_from_another_node(valkey_url: str) -> None:
    script = Slowed()
    key = {"Idempotency-Key": "once"}
    async with running_worker(valkey_url, script=script) as worker, running_api(valkey_url) as other:
        async with running_api(valkey_url, shutdown_grace_s=0) as api:
            waiting = asyncio.create_task(api.http.post(CHAT, json=HI, headers=key))
            await until_claimed(worker)
            await api.stop()
            response = await waiting
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        script.go_on.set()
        answer = await other.http.post(CHAT, json=HI, headers=key)
        assert answer.json()["choices"][0]["message"]["content"] == "abcd"
        assert answer.headers["x-headrace-idempotent-replay"] == "true"
        assert len(worker.claims) == 1
