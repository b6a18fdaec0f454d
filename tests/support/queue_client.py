"""A bare client of the queue: what an API node does, without HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.event import Delta, Event
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import SamplingSpec, StoppingSpec
from headrace_shared.queue.client import connect
from headrace_shared.queue.hub import StreamHub
from headrace_shared.queue.presence import Presence
from headrace_shared.queue.requests import QueueLimits, RequestQueue
from headrace_shared.settings import RedisSettings


class QueueClient:
    """Submits generate jobs and collects their events."""

    def __init__(self, queue: RequestQueue, hub: StreamHub, presence: Presence) -> None:
        self.queue = queue
        self.hub = hub
        self.presence = presence

    async def run(self, job: GenerateJob) -> list[Event]:
        """All events of one request."""
        stream = await self.hub.open(job.header.queue, job.header.request_id)
        await self.queue.enqueue(job)
        return [event async for frame in stream for event in frame]


@asynccontextmanager
async def queue_client(url: str) -> AsyncIterator[QueueClient]:
    settings = RedisSettings(url=url)
    redis = connect(settings)
    hub = StreamHub(redis)
    await hub.start()
    try:
        yield QueueClient(RequestQueue(redis, QueueLimits()), hub, Presence(redis))
    finally:
        await hub.close()
        await redis.aclose()


def generate_job(queue: str, request_id: str, *, prompt_tokens: int = 40, **fields: object) -> GenerateJob:
    """A job whose seed is made from its id; ``fields`` go to the specs and the header by their names."""

    def pick(struct: type) -> dict[str, object]:
        return {name: value for name, value in fields.items() if name in struct.__struct_fields__}  # type: ignore[attr-defined]

    return GenerateJob(
        header=JobHeader(request_id=request_id, queue=queue, cost_tokens=prompt_tokens, **pick(JobHeader)),  # type: ignore[arg-type]
        prompt=pack_ids(range(300, 300 + prompt_tokens)),
        sampling=SamplingSpec(**{"seed": sum(request_id.encode()), **pick(SamplingSpec)}),  # type: ignore[arg-type]
        stopping=StoppingSpec(**{"max_tokens": 120, **pick(StoppingSpec)}),  # type: ignore[arg-type]
        n=int(str(fields.get("n", 1))),
    )


def answers(events: list[Event]) -> dict[int, tuple[str, list[int], object]]:
    """Per choice: its text, its tokens and how it ended."""
    found: dict[int, tuple[str, list[int], object]] = {}
    for event in events:
        if isinstance(event, Delta):
            text, ids, ending = found.get(event.choice, ("", [], None))
            assert ending is None, "a choice went on after its end"
            found[event.choice] = (text + event.text, [*ids, *event.token_ids], event.finish_reason)
    return found
