"""When a worker asks the queue for more: on the doorbell, and as soon as something has become free."""

import asyncio
import os
import signal
import time
from typing import Any

from queue_client import QueueClient, generate_job, queue_client
from worker_process import card_of_fleet, workers
from worker_states import worker_states

from headrace_shared.protocol.event import Started
from headrace_shared.protocol.job import GenerateJob


async def test_a_backlog_is_worked_off_without_pauses_between_requests(valkey_url: str) -> None:
    with workers(valkey_url, 1, max_num_seqs=1, max_num_batched_tokens=64, simulated_step_ms=1):
        async with queue_client(valkey_url) as client:
            card = await card_of_fleet(client.presence, 1)
            jobs = [generate_job(card.queue, f"r{i}", max_tokens=5, ignore_eos=True) for i in range(20)]
            begin = time.monotonic()
            await asyncio.gather(*(client.run(job) for job in jobs))
    # One poll interval for each request would be five seconds.
    assert time.monotonic() - begin < 2.5


async def test_what_is_kept_for_a_worker_that_does_not_come_goes_to_another_soon(valkey_url: str) -> None:
    known: dict[str, Any] = {"affinity": (b"a beginning",), "max_tokens": 4, "ignore_eos": True}
    waits_ms = []
    with workers(valkey_url, 2, lease_ms=5000):
        async with queue_client(valkey_url) as client:
            card = await card_of_fleet(client.presence, 2)
            pids = {state.worker_id: state.pid for state in await worker_states(client.presence)}
            owner = await _server_of(client, generate_job(card.queue, "first", **known))
            for attempt in range(5):
                await asyncio.sleep(0.3)  # both have looked for work meanwhile, and had room
                os.kill(pids[owner.worker], signal.SIGSTOP)
                other = await _server_of(client, generate_job(card.queue, f"again-{attempt}", **known))
                os.kill(pids[owner.worker], signal.SIGCONT)
                assert other.worker != owner.worker
                waits_ms.append(other.queue_ms)
                owner = other
    # It is kept for 25 ms; the poll interval would be 250 ms.
    assert 20 < sorted(waits_ms)[2] < 125


async def _server_of(client: QueueClient, job: GenerateJob) -> Started:
    first = (await client.run(job))[0]
    assert isinstance(first, Started)
    return first
