"""BatchBook: which batches there are, how far they have come, and who works on them.

A batch is worked on by one owner at a time, under a lease that it renews. What an owner writes carries its epoch, and
is refused once another one has taken over: so a result counts once, however many owners have computed it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec
from redis.asyncio import Redis

from headrace_shared.clock import wall_ms, wall_s
from headrace_shared.errors import NotFoundError
from headrace_shared.queue import keys
from headrace_shared.queue.client import reaching
from headrace_shared.queue.pages import Page, page_of
from headrace_shared.queue.scripts import Script, run_script


class BatchStatus(StrEnum):
    """As OpenAI has them."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


OVER = frozenset({BatchStatus.FAILED, BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED})
OPEN = frozenset(BatchStatus) - OVER


class BatchSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was asked for. Times are seconds since 1970."""

    id: str
    owner: str
    """Tenant that may see it; empty when the server asks for no key."""
    tenant: str
    """Whose share its items take."""
    endpoint: str
    """A path, such as ``/v1/chat/completions``."""
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    priority: int
    """Of its items, until its end is near."""
    late_priority: int
    """Of its items at its very end."""
    metadata: dict[str, str] | None = None
    output_ttl_s: int | None = None
    """How long its results are kept; None: as other files."""
    most_items: int | None = None
    """Items and tokens that its owner's open batches may have together; None: any number."""
    most_tokens: int | None = None
    traceparent: str | None = None
    """Span of the request that it came with: its items are traces of their own, linked to that."""
    webhook_url: str | None = None
    """Whom its end is told."""


class BatchProblem(msgspec.Struct, frozen=True):
    """Why a batch cannot be worked on. ``line`` counts from 1."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True)
class BatchUsage:
    """Tokens."""

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0

    def __add__(self, other: "BatchUsage") -> "BatchUsage":
        return BatchUsage(
            self.input + other.input,
            self.cached + other.cached,
            self.output + other.output,
            self.reasoning + other.reasoning,
        )


@dataclass(frozen=True, slots=True)
class WebhookState:
    """How far the telling of a batch's end has come."""

    status: str
    """``pending``, or the last attempt's outcome."""
    attempts: int
    error: str | None
    """Of the last attempt."""


@dataclass(frozen=True, slots=True)
class BatchState:
    """A batch as it is now."""

    spec: BatchSpec
    status: BatchStatus
    times: Mapping[BatchStatus, int]
    """When it came to which status; there is none for validating."""
    total: int
    completed: int
    failed: int
    usage: BatchUsage
    model: str | None
    output_file_id: str | None
    error_file_id: str | None
    problems: tuple[BatchProblem, ...]
    ending: BatchStatus | None
    """What it will be, once that is known."""
    faults: int
    """How often work on it has broken off because of a fault of ours."""
    webhook: WebhookState | None


@dataclass(frozen=True, slots=True)
class Segment:
    """Some results that are in the store, about to count. ``parts``: which objects they are, by kind."""

    name: str
    parts: Mapping[str, str]
    lines: Sequence[int]
    """Numbers of their lines, from 0."""
    completed: int
    failed: int
    usage: BatchUsage


class LostBatchError(Exception):
    """Somebody else has taken the batch over, or it is done, or gone: nothing may be written for it any more."""


class BatchBook:
    """Every method raises UnavailableError when Redis is away, and may be called again then."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # its annotations take a client that waits for one that does not

    async def create(self, spec: BatchSpec) -> None:
        """Raises NotFoundError when its input file has gone meanwhile."""
        created = await run_script(
            self._redis,
            Script.BATCH_CREATE,
            keys.BATCHES,
            spec.id,
            spec.owner,
            msgspec.msgpack.encode(spec),
            wall_ms(),
            spec.input_file_id,
            _PENDING if spec.webhook_url is not None else "",
        )
        if not created:
            raise NotFoundError(f"There is no file {spec.input_file_id!r}.", param="input_file_id")

    async def find(self, batch_id: str) -> BatchState | None:
        """Whoever it belongs to."""
        async with reaching(self._redis):
            return _read(await self._redis.hgetall(keys.batch(batch_id)))

    async def get(self, batch_id: str, owner: str | None) -> BatchState:
        """``owner`` None: whoever it belongs to. Raises NotFoundError; what belongs to others is not told from what does not exist."""
        state = await self.find(batch_id)
        if state is None or owner not in (None, state.spec.owner):
            raise NotFoundError(f"There is no batch {batch_id[:80]!r}, or it is no longer kept.")
        return state

    async def listed(self, owner: str, page: Page) -> tuple[list[BatchState], bool]:
        """An owner's batches, and whether there are more. Raises InvalidRequestError."""

        async def some(ids: Sequence[str]) -> list[BatchState | None]:
            states = await self._states(ids)
            gone = [batch_id for batch_id, state in zip(ids, states, strict=True) if state is None]
            if gone:
                async with reaching(self._redis):
                    await self._redis.zrem(keys.batches_of(owner), *gone)
            return states

        return await page_of(self._redis, keys.batches_of(owner), page, some)

    async def overview(self, owner: str | None, limit: int) -> list[BatchState]:
        """The newest ``limit``, and as many others that are not done; newest first. ``owner`` None: everybody's."""
        newest = keys.recent_batches() if owner is None else keys.batches_of(owner)
        async with reaching(self._redis):
            found = [
                batch_id.decode()
                for key in (newest, keys.open_batches())
                for batch_id in await self._redis.zrevrange(key, 0, limit - 1)
            ]
        states = [state for state in await self._states(list(dict.fromkeys(found))) if state is not None]
        mine = [state for state in states if owner in (None, state.spec.owner)]
        return sorted(mine, key=lambda state: -state.spec.created_at)

    async def _states(self, ids: Sequence[str]) -> list[BatchState | None]:
        async with reaching(self._redis), self._redis.pipeline(transaction=False) as pipeline:
            for batch_id in ids:
                pipeline.hgetall(keys.batch(batch_id))
            return [_read(fields) for fields in await pipeline.execute()]

    async def waiting(self, limit: int) -> list[str]:
        """Batches that are not done and that nobody works on."""
        found = await run_script(self._redis, Script.BATCH_WAITING, keys.BATCHES, limit)
        return [batch_id.decode() for batch_id in found]

    async def take(self, batch_id: str, worker: str, lease_ms: int) -> int | None:
        """Become its owner; returns the epoch, None when it is somebody else's, or done."""
        epoch, _ = await run_script(self._redis, Script.BATCH_LEASE, keys.BATCHES, batch_id, worker, lease_ms, "")
        return int(epoch) or None

    async def renew(self, batch_id: str, epoch: int, lease_ms: int) -> BatchStatus:
        """Stay its owner, 0: no longer; returns its status. Raises LostBatchError."""
        held, status = await run_script(self._redis, Script.BATCH_LEASE, keys.BATCHES, batch_id, "", lease_ms, epoch)
        if not held:
            raise LostBatchError
        return BatchStatus(status.decode())

    async def admit(self, spec: BatchSpec, epoch: int, items: int, tokens: int, model: str) -> str | None:
        """It is valid: work on it begins. Returns what its owner has too much of, ``items`` or ``tokens``.

        Nothing happens when it was cancelled meanwhile. Raises LostBatchError.
        """
        code = await run_script(
            self._redis,
            Script.BATCH_ADMIT,
            keys.BATCHES,
            spec.id,
            epoch,
            wall_s(),
            items,
            tokens,
            model,
            "" if spec.most_items is None else spec.most_items,
            "" if spec.most_tokens is None else spec.most_tokens,
        )
        if code == 0:
            raise LostBatchError
        return {1: None, 2: "items", 3: "tokens"}[code]

    async def record(self, batch_id: str, epoch: int, segment: Segment) -> bool:
        """Have a segment's results count. False: some line has a result already, and nothing was changed.

        Raises LostBatchError.
        """
        usage = segment.usage
        code = await run_script(
            self._redis,
            Script.BATCH_RECORD,
            keys.BATCHES,
            batch_id,
            epoch,
            segment.name,
            msgspec.json.encode(segment.parts),
            segment.completed,
            segment.failed,
            usage.input,
            usage.cached,
            usage.output,
            usage.reasoning,
            *segment.lines,
        )
        if code == 0:
            raise LostBatchError
        return bool(code == 1)

    async def done_lines(self, batch_id: str) -> bytes:
        """A bitmap of the lines that have a result, the first one in the highest bit of the first byte."""
        async with reaching(self._redis):
            return await self._redis.get(keys.done_lines(batch_id)) or b""

    async def segments(self, batch_id: str) -> list[Mapping[str, str]]:
        """The parts of all recorded segments, in the order of their names."""
        async with reaching(self._redis):
            found = await self._redis.hgetall(keys.segments(batch_id))
        return [msgspec.json.decode(found[name], type=dict[str, str]) for name in sorted(found)]

    async def move(
        self,
        batch_id: str,
        epoch: int | None,
        to: BatchStatus,
        fields: Mapping[str, str | int | bytes] | None = None,
        ttl_s: int | None = None,
    ) -> bool:
        """Another status; ``epoch`` None: by somebody who is not its owner. With ``ttl_s`` it is over.

        False when that does not follow from the status that it has.
        """
        flat = [each for pair in (fields or {}).items() for each in pair]
        moved = await run_script(
            self._redis,
            Script.BATCH_MOVE,
            keys.BATCHES,
            batch_id,
            "" if epoch is None else epoch,
            ",".join(sorted(_BEFORE[to])),
            to,
            wall_s(),
            "" if ttl_s is None else ttl_s,
            *flat,
        )
        return bool(moved)

    async def note_fault(self, batch_id: str) -> int:
        """Work on it has broken off by a fault of ours; returns how often that has happened."""
        async with reaching(self._redis):
            return int(await self._redis.hincrby(keys.batch(batch_id), "faults", 1))

    async def totals(self) -> dict[str, int]:
        """What was counted over all batches: tokens, items, ended batches by status."""
        async with reaching(self._redis):
            found = await self._redis.hgetall(keys.batch_totals())
        return {name.decode(): int(count) for name, count in found.items()}

    async def open_count(self) -> int:
        """Batches that are not done."""
        async with reaching(self._redis):
            return int(await self._redis.zcard(keys.open_batches()))


_BEFORE: Mapping[BatchStatus, frozenset[BatchStatus]] = {
    BatchStatus.VALIDATING: frozenset(),
    BatchStatus.IN_PROGRESS: frozenset({BatchStatus.VALIDATING}),
    BatchStatus.CANCELLING: frozenset({BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS}),
    BatchStatus.FINALIZING: frozenset({BatchStatus.IN_PROGRESS}),
    BatchStatus.FAILED: frozenset({BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING}),
    BatchStatus.COMPLETED: frozenset({BatchStatus.FINALIZING}),
    BatchStatus.EXPIRED: frozenset({BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING}),
    BatchStatus.CANCELLED: frozenset({BatchStatus.CANCELLING}),
}
"""Which status may follow which."""
_PENDING = "pending"


def _read(fields: Mapping[bytes, bytes]) -> BatchState | None:
    if b"spec" not in fields:
        return None

    def text(name: str) -> str | None:
        value = fields.get(name.encode())
        return None if value is None else value.decode()

    def number(name: str) -> int:
        return int(fields.get(name.encode(), b"0"))

    problems, ending, webhook = fields.get(b"problems"), text("ending"), text("webhook")
    return BatchState(
        spec=msgspec.msgpack.decode(fields[b"spec"], type=BatchSpec),
        status=BatchStatus(fields[b"status"].decode()),
        times={status: number(f"{status}_at") for status in BatchStatus if f"{status}_at".encode() in fields},
        total=number("total"),
        completed=number("completed"),
        failed=number("failed"),
        usage=BatchUsage(
            number("input_tokens"), number("cached_tokens"), number("output_tokens"), number("reasoning_tokens")
        ),
        model=text("model"),
        output_file_id=text("output"),
        error_file_id=text("error"),
        problems=() if problems is None else msgspec.json.decode(problems, type=tuple[BatchProblem, ...]),
        ending=None if ending is None else BatchStatus(ending),
        faults=number("faults"),
        webhook=WebhookState(webhook, number("webhook_attempts"), text("webhook_error") or None) if webhook else None,
    )
