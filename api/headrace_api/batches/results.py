"""Results of items, as lines of a batch's output, and in segments that count as a whole."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import msgspec
from msgspec import Raw

from headrace_api.batches.metrics import BatchMetrics
from headrace_api.operations.items import ItemAnswer, forget
from headrace_api.operations.services import Services
from headrace_shared.errors import UnavailableError
from headrace_shared.protocol.ask import Ask
from headrace_shared.queue.batch_book import BatchUsage, Segment

log = logging.getLogger(__name__)

OUTPUT, ERROR = "output", "error"
_MOST_RESULTS = 500
_MOST_BYTES = 4 * 1024 * 1024
_LONGEST_WAIT_S = 1.0
"""For results to come together; what has waited longer counts soon."""
_RETRY_S = 1.0


class _Response(msgspec.Struct, frozen=True):
    status_code: int
    request_id: str
    body: Raw


class _Error(msgspec.Struct, frozen=True):
    code: str
    message: str


class _ResultLine(msgspec.Struct, frozen=True):
    id: str
    custom_id: str
    response: _Response | None
    error: _Error | None


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one item. ``number`` is its line's."""

    number: int
    line: bytes
    kind: str
    """The file that it belongs into: ``output`` or ``error``."""
    usage: BatchUsage = field(default_factory=BatchUsage)
    trail: tuple[str, Ask] | None = None
    """As in ``ItemAnswer``."""

    @classmethod
    def of_answer(cls, number: int, custom_id: str, request_id: str, answer: ItemAnswer) -> "Result":
        response = _Response(answer.status, request_id, Raw(answer.body))
        line = _ResultLine(_result_id(request_id), custom_id, response, None)
        return cls(number, _encoded(line), OUTPUT if answer.status == 200 else ERROR, answer.usage, answer.trail)

    @classmethod
    def not_done(cls, number: int, custom_id: str, request_id: str, code: str, message: str) -> "Result":
        """Nobody has asked for an answer, or waited for it."""
        line = _ResultLine(_result_id(request_id), custom_id, None, _Error(code, message))
        return cls(number, _encoded(line), ERROR)


class SegmentWriter:
    """Writes results to the store and has them count, some hundred at a time.

    A segment that was written and not recorded counts for nothing: its items are without a result still.
    """

    def __init__(self, services: Services, batch_id: str, epoch: int, metrics: BatchMetrics) -> None:
        self._services = services
        self._book = services.batches
        self._batch_id = batch_id
        self._epoch = epoch
        self._metrics = metrics
        self._waiting: list[Result] = []
        self._bytes = 0
        self._changed = asyncio.Event()
        self._draining = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._written = 0

    def put(self, result: Result) -> None:
        self._waiting.append(result)
        self._bytes += len(result.line)
        self._idle.clear()
        self._changed.set()

    async def drain(self) -> None:
        """Wait until all that was put so far counts."""
        self._draining += 1
        self._changed.set()
        try:
            await self._idle.wait()
        finally:
            self._draining -= 1

    async def run(self) -> None:
        """Until it is cancelled. Raises LostBatchError."""
        while True:
            await self._changed.wait()
            if not self._waiting:
                self._changed.clear()
                self._idle.set()
                continue
            await self._gather()
            results, self._waiting = self._waiting[:_MOST_RESULTS], self._waiting[_MOST_RESULTS:]
            self._bytes = sum(len(result.line) for result in self._waiting)
            await self._write(results)
            await forget([result.trail for result in results if result.trail is not None], self._services)

    async def _gather(self) -> None:
        """Wait for more, a moment."""
        loop = asyncio.get_running_loop()
        end = loop.time() + _LONGEST_WAIT_S
        while len(self._waiting) < _MOST_RESULTS and self._bytes < _MOST_BYTES and not self._draining:
            self._changed.clear()
            try:
                async with asyncio.timeout_at(end):
                    await self._changed.wait()
            except TimeoutError:
                break
        self._changed.set()

    async def _write(self, results: Sequence[Result]) -> None:
        self._written += 1
        name = f"{self._epoch}-{self._written:08d}"
        while results:
            try:
                parts = {kind: await self._put_part(name, kind, results) for kind in _kinds(results)}
                if await self._book.record(self._batch_id, self._epoch, _segment(name, parts, results)):
                    self._count(results)
                    return
                # It counts already: Redis has lost sight of it for a while, and found it again.
                done = await self._book.done_lines(self._batch_id)
                results = [result for result in results if not is_done(done, result.number)]
            except UnavailableError as error:
                log.warning("results cannot be kept", extra={"batch": self._batch_id, "reason": error.message})
                await asyncio.sleep(_RETRY_S)

    def _count(self, results: Sequence[Result]) -> None:
        self._metrics.segments.inc()
        for result in results:
            self._metrics.results.labels(result.kind).inc()

    async def _put_part(self, name: str, kind: str, results: Sequence[Result]) -> str:
        path = f"batches/{self._batch_id}/{name}.{kind}"
        await self._services.store.write(path, _once(b"".join(each.line for each in results if each.kind == kind)))
        return path


def is_done(bitmap: bytes, number: int) -> bool:
    """Whether a line has a result; ``bitmap`` as from ``BatchBook.done_lines``."""
    index, bit = divmod(number, 8)
    return index < len(bitmap) and bool(bitmap[index] & (0x80 >> bit))


def count_done(bitmap: bytes) -> int:
    return int.from_bytes(bitmap).bit_count()


def _kinds(results: Sequence[Result]) -> list[str]:
    return sorted({result.kind for result in results})


def _segment(name: str, parts: dict[str, str], results: Sequence[Result]) -> Segment:
    completed = sum(result.kind == OUTPUT for result in results)
    return Segment(
        name=name,
        parts=parts,
        lines=[result.number for result in results],
        completed=completed,
        failed=len(results) - completed,
        usage=sum((result.usage for result in results), BatchUsage()),
    )


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _encoded(line: _ResultLine) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def _result_id(request_id: str) -> str:
    return f"batch_req_{blake2b(request_id.encode(), digest_size=12).hexdigest()}"
