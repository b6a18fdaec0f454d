"""Jobs and events for tests of the queue: short to write, easy to tell apart."""

from collections.abc import Callable, Sequence

from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.event import Delta, Event, Failed, Finished
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.queue.claims import Appended, AppendStatus, Claim, FrameOut, WorkerQueue

QUEUE = "model.0123"
MakeWorker = Callable[..., WorkerQueue]


def make_job(request_id: str, **header: object) -> GenerateJob:
    """A job with a three-token prompt; ``header`` overrides fields of its JobHeader."""
    fields = {"request_id": request_id, "queue": QUEUE, "cost_tokens": 10, **header}
    return GenerateJob(JobHeader(**fields), pack_ids([1, 2, 3]))  # type: ignore[arg-type]


def token(position: int) -> Delta:
    """The one token that belongs at ``position``, so that a repeated or lost one shows."""
    return Delta(0, [position], f"t{position} ")


FINISHED = Finished(prompt_tokens=3, completion_tokens=0)


async def speak(worker: WorkerQueue, claim: Claim, *positions: int, first_seq: int | None = None) -> list[Appended]:
    """Append one frame per token position, numbered on from the claim's last one unless told otherwise."""
    seq = claim.seq + 1 if first_seq is None else first_seq
    frames = [FrameOut(claim.request_id, claim.epoch, seq + i, [token(p)]) for i, p in enumerate(positions)]
    return await worker.append(frames)


async def finish(worker: WorkerQueue, claim: Claim, seq: int) -> Appended:
    """Append the closing frame with number ``seq``."""
    [answer] = await worker.append([FrameOut(claim.request_id, claim.epoch, seq, [FINISHED], final=True)])
    return answer


async def serve(worker: WorkerQueue, claim: Claim, tokens: int) -> None:
    """Say what is left of a request of ``tokens`` tokens, in single frames, and finish it."""
    seq = claim.seq
    for position in range(len(positions(claim.log)), tokens):
        seq += 1
        [answer] = await worker.append([FrameOut(claim.request_id, claim.epoch, seq, [token(position)])])
        assert answer.status in (AppendStatus.OK, AppendStatus.DUPLICATE), answer
    assert (await finish(worker, claim, seq + 1)).status is AppendStatus.OK


def positions(events: Sequence[Event]) -> list[int]:
    """The token positions among events."""
    return [id_ for event in events if isinstance(event, Delta) for id_ in event.token_ids]


def ending(events: Sequence[Event]) -> Finished | Failed:
    """The terminal event, which must be the last one and the only one."""
    last = events[-1]
    assert isinstance(last, Finished | Failed)
    assert not any(isinstance(event, Finished | Failed) for event in events[:-1])
    return last
