"""When a worker asks the queue for more: on the doorbell, and as soon as something has become free."""

import asyncio
import time

from queue_client import generate_job, queue_client
from worker_process import card_of_fleet, workers


async def test_a_backlog_is_worked_off_without_pauses_between_requests(valkey_url: str) -> None:
    with workers(valkey_url, 1, max_num_seqs=1, max_num_batched_tokens=64, simulated_step_ms=1):
        async with queue_client(valkey_url) as client:
            card = await card_of_fleet(client.presence, 1)
            jobs = [generate_job(card.queue, f"r{i}", max_tokens=5, ignore_eos=True) for i in range(20)]
            begin = time.monotonic()
            await asyncio.gather(*(client.run(job) for job in jobs))
    # One poll interval for each request would be five seconds.
    assert time.monotonic() - begin < 2.5
