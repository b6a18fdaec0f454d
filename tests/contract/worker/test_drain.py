"""What a worker does when it is told to stop: hand over at once, or finish first."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator

import pytest
from eventually import eventually
from queue_client import QueueClient, answers, generate_job, queue_client
from worker_process import WorkerProcess, card_of_fleet, workers
from worker_states import until_running, worker_states

from headrace_shared.protocol.event import Event, Finished, Started
from headrace_shared.protocol.job import GenerateJob

STREAMS = 32
AT_ONCE_S = 3.0
"""On a busy machine; less than what is left of any answer here."""


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[QueueClient]:
    async with queue_client(valkey_url) as client:
        yield client


def _jobs(queue: str, prefix: str, *, count: int = STREAMS, tokens: int = 1000) -> list[GenerateJob]:
    return [
        generate_job(queue, f"{prefix}{i}", seed=i, max_tokens=tokens, ignore_eos=True, logprobs=1)
        for i in range(count)
    ]


async def _start(client: QueueClient, jobs: list[GenerateJob]) -> list[asyncio.Task[list[Event]]]:
    """All of them, and wait until they run."""
    tasks = [asyncio.create_task(client.run(job)) for job in jobs]
    await until_running(client.presence, len(jobs))
    return tasks


async def _until_draining(client: QueueClient) -> None:
    async def met() -> bool:
        return [state.state for state in await worker_states(client.presence)] == ["draining"]

    await eventually(met)


async def _exit_s(worker: WorkerProcess) -> float:
    begin = time.monotonic()
    assert await asyncio.to_thread(worker.terminate) == 0
    return time.monotonic() - begin


def _attempts(events: list[Event]) -> int:
    return sum(isinstance(event, Started) for event in events)


@pytest.mark.parametrize("tokens", [1000, 6000])
async def test_handing_over_takes_no_time_however_long_the_answers_are(
    valkey_url: str, client: QueueClient, tokens: int
) -> None:
    with workers(valkey_url, 1, simulated_step_ms=5) as fleet:
        card = await card_of_fleet(client.presence, 1)
        running = await _start(client, _jobs(card.queue, "r", tokens=tokens))
        took_s = await _exit_s(fleet[0])
        assert took_s < AT_ONCE_S
        assert (await client.queue.depth(card.queue)).queued_requests == STREAMS
        for task in running:
            task.cancel()


async def test_streams_handed_over_go_on_elsewhere_unchanged(valkey_url: str, client: QueueClient) -> None:
    with workers(valkey_url, 1, simulated_step_ms=5) as fleet:
        card = await card_of_fleet(client.presence, 1)
        calm = await asyncio.gather(*(client.run(job) for job in _jobs(card.queue, "calm-")))
        running = await _start(client, _jobs(card.queue, "rough-"))
        fleet.append(WorkerProcess(valkey_url, simulated_step_ms=5))
        await card_of_fleet(client.presence, 2)
        assert await _exit_s(fleet[0]) < AT_ONCE_S
        rough = await asyncio.gather(*running)
    assert [answers(events) for events in rough] == [answers(events) for events in calm]
    assert all(_attempts(events) == 2 for events in rough)


async def test_finishing_claims_nothing_more_and_ends_with_the_last_answer(
    valkey_url: str, client: QueueClient
) -> None:
    with workers(valkey_url, 1, simulated_step_ms=5, drain="finish") as fleet:
        card = await card_of_fleet(client.presence, 1)
        running = await _start(client, _jobs(card.queue, "r"))
        leaving = asyncio.create_task(_exit_s(fleet[0]))
        await _until_draining(client)
        late = asyncio.create_task(client.run(generate_job(card.queue, "late")))
        finished = await asyncio.gather(*running)
        await leaving
        assert all(isinstance(events[-1], Finished) and _attempts(events) == 1 for events in finished)
        depth = await client.queue.depth(card.queue)
        assert (depth.queued_requests, depth.running) == (1, 0)
        assert not (await client.presence.fleet()).models
        late.cancel()


async def test_a_second_signal_hands_over_what_would_have_been_finished(valkey_url: str, client: QueueClient) -> None:
    with workers(valkey_url, 1, simulated_step_ms=5, drain="finish") as fleet:
        card = await card_of_fleet(client.presence, 1)
        running = await _start(client, _jobs(card.queue, "r", tokens=4000))
        fleet[0].process.send_signal(signal.SIGTERM)
        await _until_draining(client)
        assert fleet[0].process.poll() is None
        assert await _exit_s(fleet[0]) < AT_ONCE_S
        assert (await client.queue.depth(card.queue)).queued_requests == STREAMS
        for task in running:
            task.cancel()


async def test_what_is_not_finished_in_time_is_handed_over(valkey_url: str, client: QueueClient) -> None:
    with workers(valkey_url, 1, simulated_step_ms=5, drain="finish", drain_timeout_s=0.3) as fleet:
        card = await card_of_fleet(client.presence, 1)
        short = asyncio.create_task(client.run(generate_job(card.queue, "short", max_tokens=8, ignore_eos=True)))
        running = await _start(client, _jobs(card.queue, "r", tokens=4000, count=4))
        assert await _exit_s(fleet[0]) < 0.3 + AT_ONCE_S
        assert isinstance((await short)[-1], Finished)
        assert (await client.queue.depth(card.queue)).queued_requests == 4
        for task in running:
            task.cancel()
