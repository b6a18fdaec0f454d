"""DeadLetters: the requests that were given up, to be looked at, tried again or thrown away."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from redis.asyncio import Redis

from headrace_shared.errors import InvalidRequestError, NotFoundError
from headrace_shared.ids import mint_request_id
from headrace_shared.protocol.codec import ProtocolVersionError, decode_frame, decode_job
from headrace_shared.protocol.event import Event
from headrace_shared.protocol.job import Job
from headrace_shared.queue import keys
from headrace_shared.queue.client import reaching
from headrace_shared.queue.requests import NO_LIMIT, QueueLimits, enqueue_args
from headrace_shared.queue.scripts import Script, run_script

log = logging.getLogger(__name__)

_ENTRY_ID = re.compile(r"\d{1,19}-\d{1,19}")
_NO_SUCH_ENTRY = 6
"""Code of enqueue.lua."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A request that has cost too many workers, and what is known of it."""

    entry_id: str
    request_id: str
    worker: str
    """The last one that it was lost with."""
    lost: int
    """Workers that died while they ran it."""
    seq: int
    """Frames that had been said."""
    died_ms: int
    """Redis' clock."""
    job: Job | None
    """None when it cannot be read."""
    tail: list[Event]
    """The events of the last frames that were said, at most eight frames."""


class DeadLetters:
    """The newest 10,000 per queue.

    Every method raises UnavailableError when Redis is away, InvalidRequestError for what cannot be an entry's id.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def list(self, queue: str, count: int = 100, before: str | None = None) -> list[DeadLetter]:
        """The newest ``count`` entries, newest first; those older than the entry ``before`` to go on."""
        newest = f"({_checked(before)}" if before else "+"
        async with reaching(self._redis):
            rows = await self._redis.xrevrange(keys.dead_letters(queue), max=newest, count=count)
        return [_read(entry_id.decode(), fields) for entry_id, fields in rows]

    async def get(self, queue: str, entry_id: str) -> DeadLetter | None:
        fields = await self._fields(queue, entry_id)
        return _read(entry_id, fields) if fields else None

    async def retry(self, queue: str, entry_id: str) -> str:
        """Enqueue the job again, under a new request id, which is returned, and remove the entry: both or neither.

        It keeps its tenant and priority, has all its attempts again, no deadline, and runs though nobody listens;
        the limits of the queue do not hold it back. Raises NotFoundError when there is no such entry, or somebody
        else has just retried it, InvalidRequestError when its job cannot be read.
        """
        fields = await self._fields(queue, entry_id)
        letter = _read(entry_id, fields) if fields else None
        if letter is None:
            raise NotFoundError(f"the queue has no dead letter {entry_id}")
        if letter.job is None:
            raise InvalidRequestError("the job of this dead letter cannot be read")
        header = msgspec.structs.replace(letter.job.header, request_id=mint_request_id(), detached=True)
        limits = QueueLimits(
            max_requests=NO_LIMIT,
            max_tokens=NO_LIMIT,
            replay_ttl_s=int(fields[b"ttl"]) // 1000,
            max_attempts=int(fields[b"max"]),
            tenant_weights={header.tenant: float(fields[b"weight"])},
        )
        args = enqueue_args(msgspec.structs.replace(letter.job, header=header), limits, dead_letter=entry_id)
        code, *_ = await run_script(self._redis, Script.ENQUEUE, keys.base(queue), *args)
        if code == _NO_SUCH_ENTRY:
            raise NotFoundError(f"the queue has no dead letter {entry_id} any more")
        return header.request_id

    async def purge(self, queue: str, entry_ids: Sequence[str] | None = None) -> int:
        """Remove these entries, or all; how many there were."""
        key = keys.dead_letters(queue)
        async with reaching(self._redis):
            if entry_ids is None:
                return int(await self._redis.xtrim(key, maxlen=0, approximate=False))
            return int(await self._redis.xdel(key, *map(_checked, entry_ids))) if entry_ids else 0

    async def _fields(self, queue: str, entry_id: str) -> dict[bytes, bytes]:
        """Those of one entry; none when it does not exist."""
        async with reaching(self._redis):
            rows = await self._redis.xrange(keys.dead_letters(queue), min=_checked(entry_id), max=entry_id)
        return dict(rows[0][1]) if rows else {}


def _checked(entry_id: str) -> str:
    if not _ENTRY_ID.fullmatch(entry_id):
        raise InvalidRequestError("the id of a dead letter is two numbers with a hyphen between")
    return entry_id


def _read(entry_id: str, fields: dict[bytes, bytes]) -> DeadLetter:
    frames = sorted((int(name), frame) for name, frame in fields.items() if name.isdigit())
    job: Job | None = None
    tail: list[Event] = []
    try:
        job = decode_job(fields[b"body"])
        tail = [event for _, frame in frames for event in decode_frame(frame)]
    except (ProtocolVersionError, msgspec.DecodeError) as error:
        log.warning("undecodable dead letter", extra={"entry": entry_id, "error": str(error)})
    return DeadLetter(
        entry_id=entry_id,
        request_id=fields[b"r"].decode(),
        worker=fields[b"worker"].decode(),
        lost=int(fields[b"lost"]),
        seq=int(fields[b"seq"]),
        died_ms=int(entry_id.partition("-")[0]),
        job=job,
        tail=tail,
    )
