"""Several requests at once that kill every worker which computes them: nobody else is given up."""

import asyncio

from mortal_worker import DEADLY_SEED
from queue_client import answers, generate_job, queue_client
from worker_process import WorkerProcess, card_of_fleet, workers

from headrace_shared.errors import ErrorCode
from headrace_shared.protocol.event import Failed, Finished

WORKERS = 3


async def _keep_alive(url: str, fleet: list[WorkerProcess]) -> None:
    """As an orchestrator would."""
    while True:
        for n, worker in enumerate(fleet):
            if worker.process.poll() is not None:
                fleet[n] = WorkerProcess(url, program="mortal_worker")
        await asyncio.sleep(0.05)


async def test_innocents_beside_poison_all_get_their_answers(valkey_url: str) -> None:
    with workers(valkey_url, WORKERS, program="mortal_worker") as fleet:
        async with queue_client(valkey_url) as client, asyncio.timeout(90):
            queue = (await card_of_fleet(client.presence, WORKERS)).queue
            calm = await asyncio.gather(*(client.run(generate_job(queue, f"calm{n}", seed=n)) for n in range(8)))
            orchestrator = asyncio.create_task(_keep_alive(valkey_url, fleet))
            jobs = [generate_job(queue, f"innocent{n}", seed=n) for n in range(8)]
            for n in (0, 4, 8):
                jobs.insert(n, generate_job(queue, f"poison{n}", seed=DEADLY_SEED))
            results = await asyncio.gather(*(client.run(job) for job in jobs))
            orchestrator.cancel()
    told = dict(zip([job.header.request_id for job in jobs], results, strict=True))
    assert [answers(told[f"innocent{n}"]) for n in range(8)] == [answers(events) for events in calm]
    assert all(isinstance(told[f"innocent{n}"][-1], Finished) for n in range(8))
    ends = [told[f"poison{n}"][-1] for n in (0, 4, 8)]
    assert [end.code for end in ends if isinstance(end, Failed)] == [ErrorCode.POISONED] * 3
