"""A cancellation reaches a request wherever it is, and gives its memory back."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import redis.asyncio
from eventually import eventually
from queue_client import QueueClient, generate_job, queue_client
from tiny_models import make_model
from worker_process import card_of_fleet, workers
from worker_states import until_free, until_running

from headrace_shared.errors import ErrorCode
from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.event import Delta, Event, Failed, Finished, Started
from headrace_shared.protocol.job import GenerateJob
from headrace_shared.queue import keys
from headrace_shared.queue.requests import CancelOutcome
from headrace_worker.engine.simulate import simulated_files

STEP_MS = 20
LONG_PROMPT = 4000
"""250 steps, five seconds of nothing to say."""
SETTINGS = {"simulated_step_ms": STEP_MS, "max_num_seqs": 4, "max_num_batched_tokens": 16}


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[QueueClient]:
    async with queue_client(valkey_url) as client:
        yield client


class Running:
    """A request on its way, and what came of it so far."""

    def __init__(self, client: QueueClient, job: GenerateJob, timeout_ms: int | None = None) -> None:
        self.events: list[Event] = []
        self.first = {Started: asyncio.Event(), Delta: asyncio.Event()}
        self._client, self._job, self._timeout_ms = client, job, timeout_ms
        self._task = asyncio.create_task(self._follow())

    async def cancel(self) -> CancelOutcome:
        header = self._job.header
        return await self._client.queue.cancel(header.queue, header.request_id, "test")

    async def over(self, within_s: float) -> None:
        async with asyncio.timeout(within_s):
            await self._task

    async def ending(self, within_s: float) -> Failed:
        await self.over(within_s)
        assert isinstance(self.events[-1], Failed)
        return self.events[-1]

    async def _follow(self) -> None:
        stream = await self._client.hub.open(self._job.header.queue, self._job.header.request_id)
        await self._client.queue.enqueue(self._job, timeout_ms=self._timeout_ms)
        async for frame in stream:
            self.events += frame
            for event in frame:
                if type(event) in self.first:
                    self.first[type(event)].set()


async def _cancel_unheard(url: str, running: Running) -> None:
    """Cancel while the worker's control connection has just been lost."""
    async with redis.asyncio.Redis.from_url(url) as admin:
        await admin.client_kill_filter(_type="pubsub")
    assert await running.cancel() is CancelOutcome.REQUESTED


async def test_a_queued_request_ends_without_ever_reaching_a_worker(valkey_url: str, client: QueueClient) -> None:
    with workers(valkey_url, 1, **SETTINGS | {"max_num_seqs": 1}):
        card = await card_of_fleet(client.presence, 1)
        first = Running(client, generate_job(card.queue, "first", max_tokens=4000, ignore_eos=True))
        await first.first[Delta].wait()
        queued = Running(client, generate_job(card.queue, "queued"))

        async def waits() -> bool:
            return (await client.queue.depth(card.queue)).queued_requests == 1

        await eventually(waits)
        assert await queued.cancel() is CancelOutcome.CANCELLED
        assert (await queued.ending(1)).code is ErrorCode.CANCELLED
        assert len(queued.events) == 1
        assert await first.cancel() is CancelOutcome.REQUESTED
        await first.ending(1)
        await until_free(client.presence)


@pytest.mark.parametrize("heard", [True, False], ids=["message heard", "message lost"])
async def test_a_long_prefill_is_abandoned(valkey_url: str, client: QueueClient, heard: bool) -> None:
    with workers(valkey_url, 1, **SETTINGS):
        card = await card_of_fleet(client.presence, 1)
        running = Running(client, generate_job(card.queue, "long", prompt_tokens=LONG_PROMPT))
        await running.first[Started].wait()
        await until_running(client.presence, 1)
        await (running.cancel() if heard else _cancel_unheard(valkey_url, running))
        assert (await running.ending(1.5)).code is ErrorCode.CANCELLED
        assert not running.first[Delta].is_set()
        await until_free(client.presence, 2)


async def test_a_deadline_ends_a_long_prefill(valkey_url: str, client: QueueClient) -> None:
    with workers(valkey_url, 1, **SETTINGS):
        card = await card_of_fleet(client.presence, 1)
        job = generate_job(card.queue, "late", prompt_tokens=LONG_PROMPT)
        running = Running(client, job, timeout_ms=800)
        assert (await running.ending(2.5)).code is ErrorCode.DEADLINE_EXCEEDED
        await until_free(client.presence, 2)


async def test_decoding_stops_within_a_step(valkey_url: str, client: QueueClient) -> None:
    with workers(valkey_url, 1, **SETTINGS | {"simulated_step_ms": 100}):
        card = await card_of_fleet(client.presence, 1)
        running = Running(client, generate_job(card.queue, "r", max_tokens=4000, ignore_eos=True))
        await running.first[Delta].wait()
        said, begin = len(running.events), time.monotonic()
        await running.cancel()
        await running.ending(1)
        # The closing event does not wait for the step that is under way.
        assert time.monotonic() - begin < 0.2
        assert sum(isinstance(event, Delta) for event in running.events[said:]) <= 1
        await until_free(client.presence, 2)


async def test_decoding_stops_although_the_message_was_lost(valkey_url: str, client: QueueClient) -> None:
    with workers(valkey_url, 1, **SETTINGS):
        card = await card_of_fleet(client.presence, 1)
        running = Running(client, generate_job(card.queue, "r", max_tokens=4000, ignore_eos=True, n=2))
        await running.first[Delta].wait()
        await _cancel_unheard(valkey_url, running)
        assert (await running.ending(2)).code is ErrorCode.CANCELLED
        await until_free(client.presence, 2)


async def test_at_any_moment_a_request_ends_once_and_leaves_nothing_behind(
    valkey_url: str, client: QueueClient
) -> None:
    moments = random.Random(0)
    with workers(valkey_url, 2, simulated_step_ms=3, max_num_seqs=8, max_num_batched_tokens=64):
        card = await card_of_fleet(client.presence, 2)

        async def ask_and_cancel(number: int) -> Failed | Finished:
            prompt_tokens = moments.choice([10, 500, 2000])
            job = generate_job(card.queue, f"r{number}", prompt_tokens=prompt_tokens, max_tokens=60, n=1 + number % 2)
            running = Running(client, job)
            await asyncio.sleep(moments.uniform(0, 1.5))
            await running.cancel()
            await running.over(10)
            assert sum(isinstance(event, Failed | Finished) for event in running.events) == 1
            ending = running.events[-1]
            assert isinstance(ending, Failed | Finished)
            return ending

        endings = await asyncio.gather(*(ask_and_cancel(number) for number in range(60)))
        await until_free(client.presence)
        depth = await client.queue.depth(card.queue)
    assert (depth.queued_requests, depth.queued_tokens, depth.running) == (0, 0, 0)
    assert sum(isinstance(ending, Failed) and ending.code is ErrorCode.CANCELLED for ending in endings) > 10
    assert all(isinstance(ending, Finished) or ending.code is ErrorCode.CANCELLED for ending in endings)


async def test_a_tenant_pays_for_what_a_cancelled_request_has_used(valkey_url: str, client: QueueClient) -> None:
    with workers(valkey_url, 1, **SETTINGS | {"max_num_seqs": 1}):
        card = await card_of_fleet(client.presence, 1)
        running = Running(client, _dear_job(card.queue, "running"))
        await running.first[Delta].wait()
        lanes = f"{keys.base(card.queue)}lanes:0"
        await client.queue.enqueue(_dear_job(card.queue, "keeps its tenant in the order"))
        async with redis.asyncio.Redis.from_url(valkey_url) as admin:
            before = await admin.zscore(lanes, keys.tenant_lane("ann"))
            await running.cancel()
            await running.ending(1)
            after = await admin.zscore(lanes, keys.tenant_lane("ann"))
    generated = sum(len(event.token_ids) for event in running.events if isinstance(event, Delta))
    assert before - after == 4040 - (40 + generated)


async def test_a_real_model_stops_in_prefill_and_in_decode(
    valkey_url: str, client: QueueClient, tmp_path: Path
) -> None:
    model = make_model("llama", tmp_path / "llama")
    (model / "tokenizer.json").write_bytes(simulated_files().tokenizer_json)
    (model / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    settings = {"engine": "torch", "model": model, "max_num_seqs": 1, "max_num_batched_tokens": 1, "threads": 1}
    with workers(valkey_url, 1, **settings, kv_cache_memory="4MiB"):
        card = await card_of_fleet(client.presence, 1)
        for name, moment, prompt_tokens in (("prefill", Started, 250), ("decode", Delta, 20)):
            job = generate_job(card.queue, name, max_tokens=230, ignore_eos=True)
            prompt = pack_ids([3 + i % 200 for i in range(prompt_tokens)])
            running = Running(client, msgspec.structs.replace(job, prompt=prompt))
            await running.first[moment].wait()
            await running.cancel()
            assert (await running.ending(2)).code is ErrorCode.CANCELLED
            await until_free(client.presence)


def _dear_job(queue: str, request_id: str) -> GenerateJob:
    job = generate_job(queue, request_id, tenant="ann", max_tokens=4000, ignore_eos=True)
    return msgspec.structs.replace(job, header=msgspec.structs.replace(job.header, cost_tokens=4040))
