"""When a worker asks the queue for more: on the doorbell, and as soon as something has become free."""

import asyncio
import time
from typing import Any

from queue_client import generate_job, queue_client
from worker_process import WorkerProcess, card_of_fleet, workers
from worker_states import until_running

from headrace_shared.protocol.event import Started


async def test_a_backlog_is_worked_off_without_pauses_between_requests(valkey_url: str) -> None:
    with workers(valkey_url, 1, max_num_seqs=1, max_num_batched_tokens=64, simulated_step_ms=1):
        async with queue_client(valkey_url) as client:
            card = await card_of_fleet(client.presence, 1)
            jobs = [generate_job(card.queue, f"r{i}", max_tokens=5, ignore_eos=True) for i in range(20)]
            begin = time.monotonic()
            await asyncio.gather(*(client.run(job) for job in jobs))
    # One poll interval for each request would be five seconds.
    assert time.monotonic() - begin < 2.5


async def test_what_is_kept_for_a_worker_that_has_no_room_goes_to_another_soon(valkey_url: str) -> None:
    known: dict[str, Any] = {"affinity": (b"a beginning", b"a longer beginning"), "ignore_eos": True}
    with workers(valkey_url, 1, max_num_seqs=1) as fleet:
        async with queue_client(valkey_url) as client:
            card = await card_of_fleet(client.presence, 1)
            await client.run(generate_job(card.queue, "known", max_tokens=4, **known))
            fleet.append(WorkerProcess(valkey_url, max_num_seqs=1))
            await card_of_fleet(client.presence, 2)
            waits_ms = []
            for attempt in range(5):
                job = generate_job(card.queue, f"long-{attempt}", max_tokens=300, **known)
                long = asyncio.create_task(client.run(job))
                await until_running(client.presence, 1)
                first = (await client.run(generate_job(card.queue, f"short-{attempt}", max_tokens=4, **known)))[0]
                assert isinstance(first, Started)
                waits_ms.append(first.queue_ms)
                assert first.worker != (await long)[0].worker  # type: ignore[union-attr]
    # The poll interval would be 250 ms.
    assert sorted(waits_ms)[2] < 125
