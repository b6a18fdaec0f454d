"""A worker that is full of background requests, and whoever comes then."""

import asyncio
import time

from queue_client import QueueClient, answers, generate_job, queue_client
from worker_process import card_of_fleet, workers

from headrace_shared.protocol.event import Delta
from headrace_shared.protocol.job import GenerateJob

SLOTS = 2
STEP_S = 2.0


def a_batch(queue: str, name: str, count: int) -> list[GenerateJob]:
    kind = {"priority": 50, "background": True, "max_tokens": 60, "ignore_eos": True}
    return [generate_job(queue, f"{name}{i}", seed=i, **kind) for i in range(count)]


async def first_token_s(client: QueueClient, job: GenerateJob) -> float:
    stream = await client.hub.open(job.header.queue, job.header.request_id)
    begin = time.monotonic()
    await client.queue.enqueue(job)
    found: float | None = None
    async for frame in stream:
        if found is None and any(isinstance(event, Delta) for event in frame):
            found = time.monotonic() - begin
    assert found is not None
    return found


async def test_others_begin_at_once_although_every_place_is_taken_by_a_batch_whose_answers_stay_the_same(
    valkey_url: str,
) -> None:
    with workers(valkey_url, 1, max_num_seqs=SLOTS, max_num_batched_tokens=256, simulated_step_ms=STEP_S * 1000):
        async with queue_client(valkey_url) as client:
            queue = (await card_of_fleet(client.presence, 1)).queue
            streams = [await client.hub.open(queue, job.header.request_id) for job in a_batch(queue, "b", SLOTS)]
            for job in a_batch(queue, "b", SLOTS):
                await client.queue.enqueue(job)
            await anext(frame async for frame in streams[0] if any(isinstance(event, Delta) for event in frame))
            # The batch's second step has just begun.
            wait_s = await first_token_s(client, generate_job(queue, "user", max_tokens=1, ignore_eos=True))
    assert STEP_S <= wait_s < 1.7 * STEP_S, "it waited for a step of the batch"


async def test_a_batch_that_is_paused_again_and_again_says_what_it_would_have_said_alone(valkey_url: str) -> None:
    with workers(valkey_url, 1, max_num_seqs=SLOTS, max_num_batched_tokens=64, simulated_step_ms=2):
        async with queue_client(valkey_url) as client:
            queue = (await card_of_fleet(client.presence, 1)).queue
            alone = [answers(await client.run(job)) for job in a_batch(queue, "alone", 6)]
            batch = [asyncio.create_task(client.run(job)) for job in a_batch(queue, "beside", 6)]
            for i in range(12):
                await client.run(generate_job(queue, f"user{i}", max_tokens=9, ignore_eos=True))
            beside = [answers(events) for events in await asyncio.gather(*batch)]
    assert beside == alone
