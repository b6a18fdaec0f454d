"""Requests that have cost too many workers."""

import asyncio

from queue_client import generate_job

from headrace_shared.protocol.event import Delta, Event, Started
from headrace_shared.queue.claims import FrameOut, WorkerQueue
from headrace_shared.queue.client import connect
from headrace_shared.queue.requests import QueueLimits, RequestQueue
from headrace_shared.settings import RedisSettings


async def bury(url: str, queue: str, *request_ids: str, **fields: object) -> None:
    """Lose each with its only worker, in this order, after a token. Nobody else may claim meanwhile."""
    redis = connect(RedisSettings(url=url))
    try:
        requests = RequestQueue(redis, QueueLimits(max_attempts=1))
        for request_id in request_ids:
            await requests.enqueue(generate_job(queue, request_id, tenant="ann", **fields))
            doomed = WorkerQueue(redis, queue, f"doomed-{request_id}", lease_ms=50)
            (claim,) = await doomed.claim(1, 1000)
            said: list[Event] = [Started("doomed"), Delta(0, [7], "seven")]
            await doomed.append([FrameOut(request_id, claim.epoch, claim.seq + 1, said)])
            await asyncio.sleep(0.06)
            await WorkerQueue(redis, queue, "reaper").reap()
    finally:
        await redis.aclose()
