"""Dispatcher: the only place in the API that puts work on the queue, and follows it to its end."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from headrace_api.answer_log import AnswerLog
from headrace_api.janitor import Janitor
from headrace_api.metrics import Metrics
from headrace_api.progress import Progress
from headrace_api.timeline import Timeline
from headrace_shared.clock import mono_s
from headrace_shared.errors import (
    CancelledRequestError,
    ConflictError,
    DeadlineExceededError,
    ErrorCode,
    HeadraceError,
    OverloadedError,
    UnavailableError,
)
from headrace_shared.protocol.ask import Ask
from headrace_shared.protocol.event import Delta, Event, Failed, Finished
from headrace_shared.protocol.job import GenerateJob
from headrace_shared.queue.hub import StreamHub
from headrace_shared.queue.requests import EnqueueResult, IdempotencyKey, RequestQueue
from headrace_shared.queue.stream import ResultStream

log = logging.getLogger(__name__)

_WATCH_S = 1.0
_MERGE_BUFFER = 64


@dataclass(frozen=True, slots=True)
class Terms:
    """How one client follows a request."""

    model: str
    arrived_s: float
    timeout_s: float
    """From the arrival on; beyond it the client gets an error."""
    linger_s: float
    """How long the request goes on when the client has gone, in case that it comes back."""
    timeline: Timeline | None = None
    """Of a request that comes from here; None: somebody else's is followed."""
    answers: Callable[[GenerateJob], AnswerLog] | None = None
    """Makes the log of a job's answers; None: they are not logged."""

    @property
    def left_s(self) -> float:
        return self.arrived_s + self.timeout_s - mono_s()


class KeyTakenError(Exception):
    """The idempotency key belongs to an earlier request."""


class Dispatcher:
    """Owns every request of this process that is on the queue."""

    def __init__(
        self,
        hub: StreamHub,
        queue: RequestQueue,
        metrics: Metrics,
        has_workers: Callable[[str], bool],
        no_worker_grace_s: float,
    ) -> None:
        self._hub = hub
        self._metrics = metrics
        self._has_workers = has_workers
        self._no_worker_grace_s = no_worker_grace_s
        self._queue = queue
        self._janitor = Janitor(queue, metrics)
        self._running: set[Generation] = set()
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._janitor.start()
        self._watcher = asyncio.create_task(self._watch(), name="dispatch-watch")

    async def close(self) -> None:
        """Cancel what still runs, and wait a moment for Redis to hear of it."""
        for generation in list(self._running):
            await generation.aclose()
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await self._janitor.close()

    async def submit(
        self, job: GenerateJob, ask: Ask, terms: Terms, idempotency: IdempotencyKey | None = None
    ) -> "Generation":
        """Listen, then enqueue: nothing that is said can be missed. The caller must ``aclose`` the result.

        A job that is known already is followed from its beginning; one that Redis has lost is put there again.
        Raises KeyTakenError, ConflictError, OverloadedError, UnavailableError, DeadlineExceededError.
        """
        stream = await self._hub.open(job.header.queue, job.header.request_id)
        stream.restore = partial(self._restore, job, ask, terms, idempotency)
        generation = self._begin(job, stream, terms)
        # The first job brings the body along for all of them.
        first = job.header.request_id == ask.job_ids[0]
        kept = ask if first else msgspec.structs.replace(ask, body=b"")
        try:
            enqueued = await self._queue.enqueue(
                job, idempotency=idempotency, ask=kept, timeout_ms=round(terms.left_s * 1000)
            )
            if enqueued.result is EnqueueResult.ATTACHED:
                raise KeyTakenError
            if enqueued.result is EnqueueResult.CONFLICT:
                raise ConflictError(
                    "Idempotency-Key: was used for a request with another body.", param="Idempotency-Key"
                )
            if enqueued.result is EnqueueResult.DUPLICATE:
                await generation.replay()
        except BaseException as error:
            generation.enqueue_failed(error)
            await generation.aclose()
            raise
        return generation

    async def attach(self, job: GenerateJob, terms: Terms) -> "Generation":
        """Follow a job that is on the queue already, or was, from its beginning. The caller must ``aclose`` the result.

        Raises UnavailableError.
        """
        stream = await self._hub.open(job.header.queue, job.header.request_id)
        generation = self._begin(job, stream, terms)
        await generation.replay()
        return generation

    async def _restore(self, job: GenerateJob, ask: Ask, terms: Terms, idempotency: IdempotencyKey | None) -> None:
        """Redis has lost the job. Whichever job comes first, the body must be there again."""
        await self._queue.enqueue(job, idempotency=idempotency, ask=ask, timeout_ms=round(terms.left_s * 1000))

    def _begin(self, job: GenerateJob, stream: ResultStream, terms: Terms) -> "Generation":
        answers = None if terms.answers is None else terms.answers(job)
        progress = Progress(self._metrics, terms.model, terms.arrived_s, terms.timeline, answers)
        generation = Generation(job, stream, progress, terms, on_close=self._closed)
        self._running.add(generation)
        return generation

    def _closed(self, generation: "Generation") -> None:
        self._running.discard(generation)
        if generation.unwanted:
            self._janitor.cancel(generation.queue, generation.request_id, generation.linger_s)

    async def _watch(self) -> None:
        """Ends requests whose model has lost all its workers for too long: nobody else would."""
        while True:
            await asyncio.sleep(_WATCH_S)
            now_s = mono_s()
            for generation in list(self._running):
                if self._has_workers(generation.queue):
                    generation.served_s = now_s
                elif now_s - generation.served_s > self._no_worker_grace_s:
                    generation.fail(UnavailableError("Every worker of this model is gone; try again later."))


class Generation:
    """One request on the queue: its events in order. To be closed by whoever submitted it, in any case."""

    def __init__(
        self,
        job: GenerateJob,
        stream: ResultStream,
        progress: Progress,
        terms: Terms,
        *,
        on_close: Callable[["Generation"], None],
    ) -> None:
        self.queue = job.header.queue
        self.request_id = job.header.request_id
        self.over = False
        """The worker has said its last word, or has never heard of the request."""
        self.failed = False
        """That word was a failure."""
        self.finished: Finished | None = None
        """Its last word, once it has finished well."""
        self.served_s = mono_s()
        self.linger_s = terms.linger_s
        self._detached = job.header.detached
        self._kept = False
        self._follows = False
        self._stream = stream
        self._progress = progress
        self._on_close = on_close
        self._ahead: list[Event] = []
        self._failure: HeadraceError | None = None
        # One timer for all of its frames: each of them would pay for one of its own.
        late = DeadlineExceededError("The request was not finished within the time that it was given.")
        self._timer = asyncio.get_running_loop().call_later(max(0.0, terms.left_s), self.fail, late)
        self._closed = False

    @property
    def unwanted(self) -> bool:
        """Whether it is to be cancelled once it is closed."""
        return not (self.over or self._kept or self._detached)

    @property
    def used_tokens(self) -> int | None:
        """Prompt and answer, once it has finished well."""
        return None if self.finished is None else self.finished.prompt_tokens + self.finished.completion_tokens

    @property
    def begun(self) -> bool:
        """Whether anything is known of an answer, or that there will be none."""
        return self.over or any(isinstance(event, Delta) for event in self._ahead)

    async def replay(self) -> None:
        """Begin with what was said so far: somebody else has submitted it. What is told again is not counted again."""
        self._follows = True
        self._progress.silence()
        await self._stream.replay_from(0)

    async def first(self, wait_s: float) -> None:
        """Wait for the first token, but not longer than ``wait_s``.

        Raises the failure when the request ends before, so that it can have its own HTTP status.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while not self.begun:
                    self._ahead += await self._read()

    async def next_events(self) -> list[Event]:
        """Everything that is ready, at least one event; [] after the end.

        Raises HeadraceError when the request failed, was cancelled or ran out of time.
        """
        if self._ahead:
            events, self._ahead = self._ahead, []
            return events
        return await self._read()

    def fail(self, error: HeadraceError) -> None:
        """End it from this side: whoever waits for events gets ``error``."""
        if not self.over:
            self._failure = self._failure or error
            self._stream.close()

    def keep(self) -> None:
        """Let it run when it is closed: its client will ask another node for the rest."""
        self._kept = True

    def give_up(self) -> None:
        """Have it cancelled when it is closed, even if it was to go on without its client. Not for a mere follower."""
        if not self._follows:
            self._kept = self._detached = False
            self.linger_s = 0.0

    def enqueue_failed(self, error: BaseException) -> None:
        """A refused request never ran; one whose reply was lost may run, and gets cancelled."""
        self.give_up()
        refusals = KeyTakenError | ConflictError | OverloadedError | DeadlineExceededError
        self.over = isinstance(error, refusals)
        self._progress.outcome = error.code.value if isinstance(error, HeadraceError) else "cancelled"

    async def aclose(self) -> None:
        """Stop listening, and have the request cancelled if it is not over. Never waits for Redis."""
        if self._closed:
            return
        self._closed = True
        self._timer.cancel()
        self._stream.close()
        self._progress.close()
        self._on_close(self)

    async def _read(self) -> list[Event]:
        if self.over and self._failure is None:
            return []
        frames = await self._frames()
        events = frames[0] if len(frames) == 1 else [event for frame in frames for event in frame]
        last = events[-1] if events else None
        self.over = last is None or isinstance(last, Finished | Failed)
        if isinstance(last, Failed):
            self.failed = True
            self._failure = _as_error(last)
            if not any(isinstance(event, Delta) for event in events):
                raise self._failed_with(self._failure)
            events.pop()  # The tokens first; the next call raises.
        if isinstance(last, Finished):
            self.finished = last
        self._progress.saw(events)
        return events

    async def _frames(self) -> list[list[Event]]:
        frames = await self._stream.next_frames() if self._failure is None else []
        if self._failure is not None:
            raise self._failed_with(self._failure)
        return frames

    def _failed_with(self, error: HeadraceError) -> HeadraceError:
        self._progress.outcome = error.code.value
        if error.code is ErrorCode.INTERNAL:
            log.error("worker failed on a request", extra={"reason": error.message})
        return error


async def merge(generations: Sequence[Generation]) -> AsyncGenerator[tuple[int, list[Event]], None]:
    """The events of several requests as they come, each with its request's position. Raises the first failure."""
    if len(generations) == 1:
        while events := await generations[0].next_events():
            yield 0, events
        return
    merged: asyncio.Queue[tuple[int, list[Event] | Exception]] = asyncio.Queue(_MERGE_BUFFER)

    async def follow(position: int, generation: Generation) -> None:
        try:
            while events := await generation.next_events():
                await merged.put((position, events))
            await merged.put((position, []))
        except Exception as error:  # noqa: BLE001 - whoever reads the queue raises it
            await merged.put((position, error))

    followers = [asyncio.create_task(follow(*pair)) for pair in enumerate(generations)]
    try:
        open_count = len(followers)
        while open_count:
            position, said = await merged.get()
            if isinstance(said, Exception):
                raise said
            if said:
                yield position, said
            else:
                open_count -= 1
    finally:
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)


def _as_error(failed: Failed) -> HeadraceError:
    match failed.code:
        case ErrorCode.OVERLOADED:
            return OverloadedError(failed.message)
        case ErrorCode.UNAVAILABLE:
            return UnavailableError(failed.message)
        case ErrorCode.CANCELLED:
            return CancelledRequestError(failed.message)
        case _:
            return HeadraceError(failed.message, param=failed.param, code=failed.code)
