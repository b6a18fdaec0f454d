"""Workers that die or leave in the middle of streams: clients receive what they would have received anyway."""

import asyncio

import pytest
from queue_client import QueueClient, answers, generate_job, queue_client
from worker_process import WorkerProcess, card_of_fleet, workers

from headrace_shared.model_card import ModelCard
from headrace_shared.protocol.event import Event, Finished, Started
from headrace_shared.protocol.job import GenerateJob
from headrace_shared.protocol.sampling import BeamSpec


def _jobs(card: ModelCard, prefix: str) -> list[GenerateJob]:
    kinds: list[dict[str, object]] = [
        {},
        {"n": 3},
        {"stop": ("ama", "ete"), "min_tokens": 4},
        {"logprobs": 2},
        {"prompt_logprobs": 1},
        {"beams": BeamSpec(4, 0.5), "n": 2, "logprobs": 1, "max_tokens": 60},
        {"max_tokens": 300, "ignore_eos": True},
    ]
    return [generate_job(card.queue, f"{prefix}{i}", seed=i, **kinds[i % len(kinds)]) for i in range(60)]


async def _run_all(client: QueueClient, jobs: list[GenerateJob]) -> list[list[Event]]:
    async with asyncio.timeout(60):
        return list(await asyncio.gather(*(client.run(job) for job in jobs)))


def _attempts(events: list[Event]) -> int:
    return max(event.attempt for event in events if isinstance(event, Started))


@pytest.mark.parametrize("how", ["kill", "terminate"])
async def test_streams_go_on_unchanged_when_their_worker_is_lost(valkey_url: str, how: str) -> None:
    with workers(valkey_url, 3, simulated_step_ms=4) as fleet:
        async with queue_client(valkey_url) as client:
            card = await card_of_fleet(client.presence, 3)
            undisturbed = await _run_all(client, _jobs(card, "calm-"))
            disturbed = asyncio.create_task(_run_all(client, _jobs(card, "rough-")))
            for victim in fleet[:2]:
                await asyncio.sleep(0.15)
                getattr(victim, how)()
            results = await disturbed
    assert [answers(events) for events in results] == [answers(events) for events in undisturbed]
    assert all(isinstance(events[-1], Finished) for events in results)
    assert sum(_attempts(events) > 1 for events in results) > 0


async def test_requests_wait_for_a_worker_that_comes_back(valkey_url: str) -> None:
    with workers(valkey_url, 1) as fleet:
        async with queue_client(valkey_url) as client:
            card = await card_of_fleet(client.presence, 1)
            undisturbed = await _run_all(client, _jobs(card, "calm-"))
            disturbed = asyncio.create_task(_run_all(client, _jobs(card, "rough-")))
            await asyncio.sleep(0.1)
            fleet[0].kill()
            fleet.append(WorkerProcess(valkey_url))
            results = await disturbed
    assert [answers(events) for events in results] == [answers(events) for events in undisturbed]
