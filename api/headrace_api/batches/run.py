"""BatchRun: one batch in the hands of its owner, from whatever status it is in to its end."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from hashlib import blake2b
from typing import Any

import msgspec

from headrace_api.batches.feed import Feed, Order, Rest, input_lines
from headrace_api.batches.lines import InputCheck, read_line
from headrace_api.batches.metrics import BatchMetrics
from headrace_api.batches.results import ERROR, OUTPUT, SegmentWriter, count_done
from headrace_api.batches.window import Window
from headrace_api.operations import items
from headrace_api.operations.files import OUTPUT as OUTPUT_PURPOSE
from headrace_api.operations.services import Services
from headrace_api.storage import MissingBytesError
from headrace_shared.clock import wall_s
from headrace_shared.errors import ModelNotFoundError, UnavailableError
from headrace_shared.queue.batch_book import OVER, BatchProblem, BatchState, BatchStatus, LostBatchError
from headrace_shared.queue.file_book import FileRecord

log = logging.getLogger(__name__)

_BEATS_PER_LEASE = 4
_RETRY_S = 1.0
_MOST_FAULTS = 5
_ENDINGS = {
    BatchStatus.EXPIRED: ("batch_expired", "This request could not be executed before the completion window expired."),
    BatchStatus.CANCELLED: ("batch_cancelled", "This request was not executed, as the batch was cancelled."),
}


class _StoppedError(Exception):
    """The batch is to end before its items do."""


class BatchRun:
    """To be run by whoever has taken the batch, under that epoch."""

    def __init__(self, batch_id: str, epoch: int, services: Services, window: Window, metrics: BatchMetrics) -> None:
        self._id = batch_id
        self._epoch = epoch
        self._services = services
        self._book = services.batches
        self._window = window
        self._metrics = metrics
        self._lease_ms = round(services.settings.batch_lease_s * 1000)
        self._cancelled = asyncio.Event()
        self._writer = SegmentWriter(services, batch_id, epoch, metrics)

    async def run(self) -> None:
        """To its end, or until somebody else has it. Cancelled, it lets go of the batch; its requests go on."""
        try:
            await self._together(self._work(), self._keep_lease(), self._writer.run())
        except LostBatchError:
            log.info("batch is not ours any more", extra={"batch": self._id})
            return
        except asyncio.CancelledError:
            await self._let_go()
            raise
        except Exception:
            log.exception("work on a batch failed", extra={"batch": self._id})
            await self._note_fault()

    async def _together(self, work: Coroutine[Any, Any, None], *beside: Coroutine[Any, Any, None]) -> None:
        """Until ``work`` ends; whatever fails first ends all."""
        tasks = [asyncio.create_task(each) for each in (work, *beside)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tasks[0].cancel()
            await asyncio.gather(tasks[0], return_exceptions=True)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _keep_lease(self) -> None:
        """Raises LostBatchError. While Redis is away, nobody else can take the batch either."""
        while True:
            with contextlib.suppress(UnavailableError):
                if await self._book.renew(self._id, self._epoch, self._lease_ms) is BatchStatus.CANCELLING:
                    self._cancelled.set()
            await asyncio.sleep(self._lease_ms / 1000 / _BEATS_PER_LEASE)

    async def _work(self) -> None:
        while True:
            try:
                state = await self._book.find(self._id)
                if state is None or state.status in OVER:
                    return
                await self._step(state)
            except UnavailableError as error:
                log.warning("batch has to wait", extra={"batch": self._id, "reason": error.message})
                await asyncio.sleep(_RETRY_S)

    async def _step(self, state: BatchState) -> None:
        """What its status asks for; another step follows unless that was its end."""
        match state.status:
            case BatchStatus.VALIDATING:
                await self._validate(state)
            case BatchStatus.IN_PROGRESS:
                await self._feed(state)
            case BatchStatus.CANCELLING:
                await self._end(state, BatchStatus.CANCELLED)
            case _:
                await self._end(state, state.ending or BatchStatus.COMPLETED)

    async def _validate(self, state: BatchState) -> None:
        spec, settings = state.spec, self._services.settings
        check = InputCheck(spec.endpoint, settings.max_body_bytes, settings.max_batch_items)
        try:
            async for number, raw in input_lines(spec, self._services):
                check.feed(number, raw)
        except MissingBytesError:
            await self._fail([BatchProblem("invalid_input_file", "The input file is not there any more.")])
            return
        problems = check.finish()
        if not problems:
            try:
                model = await self._model_name(check.model)
            except ModelNotFoundError as error:
                problems = [BatchProblem("model_not_found", error.message, "body.model")]
            else:
                problems = await self._admit(state, check.items, model)
        if problems:
            await self._fail(problems)

    async def _model_name(self, asked: str | None) -> str:
        """As items name it. A worker that is just starting again has a moment. Raises ModelNotFoundError."""
        end_s = asyncio.get_running_loop().time() + self._services.settings.no_worker_grace_s
        while True:
            try:
                name = self._services.directory.resolve(asked).card.name
            except ModelNotFoundError:
                if asyncio.get_running_loop().time() > end_s:
                    raise
                await asyncio.sleep(_RETRY_S)
            else:
                return name if asked is None else asked

    async def _admit(self, state: BatchState, count: int, model: str) -> list[BatchProblem]:
        spec = state.spec
        tokens = 0
        if spec.most_tokens is not None:
            order = Order(spec, wall_s())
            async for number, raw in input_lines(spec, self._services):
                tokens += await items.cost_tokens(order.item(read_line(number, raw), 1), self._services)
        what = await self._book.admit(spec, self._epoch, count, tokens, model)
        if what is None:
            return []
        asked, most = (count, spec.most_items) if what == "items" else (tokens, spec.most_tokens)
        message = (
            f"Enqueued {what} limit reached: this batch has {asked} {what}, and together with your other batches that "
            f"are not done that would be more than {most}. Try again once some of them have been completed."
        )
        return [BatchProblem(f"{what.removesuffix('s')}_limit_exceeded", message)]

    async def _feed(self, state: BatchState) -> None:
        order = Order(state.spec, state.times[BatchStatus.IN_PROGRESS])
        ending = BatchStatus.COMPLETED
        try:
            while count_done(done := await self._book.done_lines(self._id)) < state.total:
                feed = Feed(order, self._services, self._window, self._writer, self._metrics)
                await self._until_stopped(feed.run(done), order)
                await self._writer.drain()
        except _StoppedError:
            if self._cancelled.is_set():
                return
            ending = BatchStatus.EXPIRED
        except MissingBytesError:
            await self._fail([BatchProblem("invalid_input_file", "The input file is not there any more.")])
            return
        await self._book.move(self._id, self._epoch, BatchStatus.FINALIZING, {"ending": ending})

    async def _until_stopped(self, feeding: Coroutine[Any, Any, None], order: Order) -> None:
        """Raises _StoppedError when it was cancelled, or its time is over."""
        tasks = [asyncio.create_task(feeding), asyncio.create_task(self._cancelled.wait())]
        try:
            done, _ = await asyncio.wait(tasks, timeout=max(0.0, order.left_s()), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if tasks[0] not in done:
            raise _StoppedError
        tasks[0].result()

    async def _end(self, state: BatchState, ending: BatchStatus) -> None:
        """Its results into files; what has none is told to have none."""
        try:
            if ending in _ENDINGS and state.total:
                await self._writer.drain()
                done = await self._book.done_lines(self._id)
                order = Order(state.spec, state.times[BatchStatus.IN_PROGRESS])
                await Rest(order, self._services, self._writer).close(done, *_ENDINGS[ending])
                await self._writer.drain()
            segments = await self._book.segments(self._id)
            files = {}
            for kind in (OUTPUT, ERROR):
                paths = [parts[kind] for parts in segments if kind in parts]
                if paths:
                    files[kind] = await self._write_file(state, kind, paths)
        except MissingBytesError:
            log.exception("files of a batch have gone", extra={"batch": self._id})
            await self._fail([BatchProblem("internal_error", "Files that this batch needs are not there any more.")])
            return
        await self._finish(ending, files)

    async def _write_file(self, state: BatchState, kind: str, paths: list[str]) -> str:
        """Its id, which is always the same, so that ending a batch twice makes one file."""
        digest = blake2b(f"{self._id}:{kind}".encode(), digest_size=12).hexdigest()
        now_s, settings = wall_s(), self._services.settings
        record = FileRecord(
            id=f"file-{digest}",
            owner=state.spec.owner,
            filename=f"{self._id}_{kind}.jsonl",
            purpose=OUTPUT_PURPOSE,
            bytes=0,
            created_at=now_s,
            expires_at=now_s + (state.spec.output_ttl_s or settings.file_ttl_s),
        )
        await self._services.files.begin(record.id)
        size = await self._services.store.write(record.path, self._joined(paths))
        await self._services.files.add(msgspec.structs.replace(record, bytes=size))
        return record.id

    async def _joined(self, paths: list[str]) -> AsyncIterator[bytes]:
        for path in paths:
            async for chunk in self._services.store.read(path):
                yield chunk

    async def _fail(self, problems: list[BatchProblem]) -> None:
        log.info("batch failed", extra={"batch": self._id, "code": problems[0].code})
        await self._finish(BatchStatus.FAILED, {"problems": msgspec.json.encode(problems)})

    async def _finish(self, ending: BatchStatus, fields: dict[str, Any]) -> None:
        ttl_s = self._services.settings.batch_ttl_s
        if await self._book.move(self._id, self._epoch, ending, fields, ttl_s):
            log.info("batch has ended", extra={"batch": self._id, "status": ending.value})

    async def _let_go(self) -> None:
        """Somebody else may go on at once."""
        with contextlib.suppress(UnavailableError, LostBatchError):
            await self._book.renew(self._id, self._epoch, 0)

    async def _note_fault(self) -> None:
        """It is tried again, but not for ever."""
        with contextlib.suppress(UnavailableError, LostBatchError):
            if await self._book.note_fault(self._id) >= _MOST_FAULTS:
                message = "The server failed while it worked on this batch; its operator finds the reason in the log."
                await self._fail([BatchProblem("internal_error", message)])
            else:
                await self._book.renew(self._id, self._epoch, 0)
