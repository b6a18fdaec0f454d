"""Pump: claimed requests into the engine, engine outputs into the token log."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from headrace_shared.errors import ErrorCode
from headrace_shared.protocol.event import Failed
from headrace_shared.protocol.grammar import GrammarSpec
from headrace_shared.protocol.sampling import ProcessorCall, SamplingSpec
from headrace_shared.queue.claims import AppendStatus, Claim
from headrace_shared.text.tokenizer import Tokenizer
from headrace_worker.schedule.plan import SequenceOutput
from headrace_worker.schedule.request import Grammar, Request, RowProcessor
from headrace_worker.service.answer import Answer
from headrace_worker.service.attempts import Attempts
from headrace_worker.service.bridge import EngineThread, StepReport
from headrace_worker.service.outbox import Outbox

log = logging.getLogger(__name__)

_CLOSING = {
    AppendStatus.CANCELLED: Failed(ErrorCode.CANCELLED, "the request was cancelled"),
    AppendStatus.DEADLINE: Failed(ErrorCode.DEADLINE_EXCEEDED, "the request's deadline passed"),
}
_UNHEARD = Failed(ErrorCode.CANCELLED, "nobody listens")

_FIRST_OUTPUTS = 4
"""Of a step: readers have something to do while the rest is put into words; each further part has twice as many."""
_COMPILE_S = 60.0
"""How long a grammar may take to compile, the wait for a thread included."""


class Grammars(Protocol):
    """Compiles grammars in threads of its own."""

    def compile(self, spec: GrammarSpec, /) -> "Future[Grammar]": ...


LoadProcessors = Callable[[Sequence[ProcessorCall]], Sequence[RowProcessor]]
"""Imports logits processors, which takes a while. Raises ValueError for one that cannot be used."""


class Pump:
    """Owns the answers in the making. All methods run on the event loop."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        worker_id: str,
        attempts: Attempts,
        grammars: Grammars | None = None,
        processors: LoadProcessors | None = None,
    ) -> None:
        """``grammars``, ``processors``: None where the engine can do nothing with them."""
        self._tokenizer = tokenizer
        self._worker_id = worker_id
        self._attempts = attempts
        self._grammars = grammars
        self._processors = processors
        self._equipping: set[asyncio.Task[None]] = set()
        self._answers: dict[str, Answer] = {}
        self._undelivered: deque[SequenceOutput] = deque()
        self._engine: EngineThread
        self._outbox: Outbox

    def connect(self, engine: EngineThread, outbox: Outbox) -> None:
        """Give it both neighbours, which in turn call it."""
        self._engine = engine
        self._outbox = outbox

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def equipping(self) -> int:
        """Requests that wait for their grammar or processors."""
        return len(self._equipping)

    def __contains__(self, run_id: str) -> bool:
        return self._answer_of(run_id) is not None

    def accept(self, claim: Claim) -> None:
        """Begin, or continue, a claimed request."""
        # We have it when Redis has forgotten an earlier claim. What the log has counts, and goes on from there.
        self._abort(claim.request_id, "claimed again")
        self._outbox.open(claim)
        answer = Answer(claim, self._tokenizer, self._worker_id, self._attempts.start(claim))
        try:
            request = answer.to_request()
        except ValueError as error:
            answer.leave(ErrorCode.INVALID_REQUEST)
            self._outbox.end(claim.request_id, Failed(ErrorCode.INVALID_REQUEST, str(error)), used_tokens=0)
            return
        self._answers[claim.request_id] = answer
        self._outbox.put(claim.request_id, [answer.started()])
        if answer.complete:
            # An earlier attempt has said everything but the closing event.
            self._close(answer)
        elif claim.job.sampling.grammar is not None or claim.job.sampling.logits_processors:
            task = asyncio.create_task(self._equip(answer, request))
            self._equipping.add(task)
            task.add_done_callback(self._equipping.discard)
        else:
            self._engine.add(request)
        log.info(
            "request started",
            extra={"request_id": claim.request_id, "attempt": claim.attempt, "queue_ms": answer.queue_ms},
        )

    def deliver(self, report: StepReport) -> None:
        """Turn one engine step into events."""
        for run_id, reason in report.refused:
            answer = self._answer_of(run_id)
            if answer is not None:
                self._leave(answer.request_id, ErrorCode.INVALID_REQUEST)
                self._outbox.end(answer.request_id, Failed(ErrorCode.INVALID_REQUEST, reason), used_tokens=0)
        under_way = bool(self._undelivered)
        self._undelivered += report.outputs
        if not under_way:
            self._deliver_some(_FIRST_OUTPUTS)

    def give_up(self, request_id: str, status: AppendStatus) -> None:
        """Stop a request that its client gave up, or whose deadline has passed; one that has ended stays as it is."""
        if request_id in self._answers:
            self._end_early(request_id, _CLOSING[status])

    def unheard(self, request_id: str) -> None:
        """Stop a request whose answer nobody listens to: see ``Outbox``."""
        if request_id in self._answers:
            self._end_early(request_id, _UNHEARD)

    def lost(self, request_id: str, status: AppendStatus) -> None:
        """The log refused a frame: see ``Outbox``."""
        if status is AppendStatus.FENCED:
            log.warning("request lost to another worker", extra={"request_id": request_id})
            self._abort(request_id, "fenced")
        else:
            # Even when it has ended here: its closing event may have been refused as well.
            self._end_early(request_id, _CLOSING[status])

    def abandon_all(self) -> None:
        """Forget every request, for another worker to continue."""
        for request_id in list(self._answers):
            self._outbox.close(request_id)
            self._abort(request_id, "handed over")

    def _deliver_some(self, count: int) -> None:
        """Deliver so many outputs, or all when few more are left; the others follow once the outbox had its turn."""
        outputs = self._undelivered
        for _ in range(count if len(outputs) > 2 * count else len(outputs)):
            output = outputs.popleft()
            answer = self._answer_of(output.request_id)
            if answer is not None:
                self._deliver(answer, output)
        if outputs:
            asyncio.get_running_loop().call_soon(self._deliver_some, 2 * count)

    async def _equip(self, answer: Answer, request: Request) -> None:
        """Hand a request over once its grammar and its logits processors are ready; others go first meanwhile."""
        sampling = answer.claim.job.sampling
        failure = await self._constrain(request, sampling) or await self._customise(request, sampling)
        if self._answers.get(answer.request_id) is not answer:
            return
        if failure is None:
            self._engine.add(request)
        else:
            self._end_early(answer.request_id, failure)

    async def _constrain(self, request: Request, sampling: SamplingSpec) -> Failed | None:
        if sampling.grammar is None:
            return None
        param = sampling.grammar.asked_as or "response_format"
        try:
            async with asyncio.timeout(_COMPILE_S):
                request.constrain(await self._compiled(sampling.grammar))
        except TimeoutError:
            return Failed(ErrorCode.INVALID_REQUEST, f"{param}: the grammar takes too long to compile", param)
        except ValueError as error:
            return Failed(ErrorCode.INVALID_REQUEST, f"{param}: {error}", param)
        except Exception:
            log.exception("grammar compiler failed", extra={"request_id": request.request_id})
            return Failed(ErrorCode.INTERNAL, "the grammar compiler failed")
        return None

    async def _customise(self, request: Request, sampling: SamplingSpec) -> Failed | None:
        if not sampling.logits_processors:
            return None
        try:
            if self._processors is None:
                raise ValueError("the model's workers have no logits to process")
            request.customise(await asyncio.to_thread(self._processors, sampling.logits_processors))
        except ValueError as error:
            return Failed(ErrorCode.INVALID_REQUEST, f"logits_processors: {error}", "logits_processors")
        return None

    async def _compiled(self, spec: GrammarSpec) -> Grammar:
        if self._grammars is None:
            raise ValueError("the model's workers cannot constrain answers to a grammar")
        # Others may wait for the same one: our end of it must not cancel it.
        return await asyncio.shield(asyncio.wrap_future(self._grammars.compile(spec)))

    def _deliver(self, answer: Answer, output: SequenceOutput) -> None:
        if output.failure is not None:
            failure = Failed(ErrorCode.INVALID_REQUEST, f"logits_processors: {output.failure}", "logits_processors")
            self._end_early(answer.request_id, failure)
            return
        events = answer.feed(output)
        if not events:
            return
        if output.finish_reason is None and not answer.runs(output.choice):
            # A stop string has ended it here; the engine does not know yet.
            self._engine.finish(answer.claim.run_id, output.choice)
        self._outbox.put(answer.request_id, events)
        if answer.complete:
            self._close(answer)

    def _close(self, answer: Answer) -> None:
        closing = answer.finished()
        self._outbox.end(answer.request_id, closing, answer.used_tokens)
        self._leave(answer.request_id, "finished")
        log.info(
            "request finished",
            extra={
                "request_id": answer.request_id,
                "prompt_tokens": closing.prompt_tokens,
                "completion_tokens": closing.completion_tokens,
            },
        )

    def _end_early(self, request_id: str, failure: Failed) -> None:
        log.info("request ended early", extra={"request_id": request_id, "why": failure.message})
        answer = self._abort(request_id, failure.code)
        self._outbox.end(request_id, failure, answer.used_tokens if answer else None)

    def _answer_of(self, run_id: str) -> Answer | None:
        """None also for an attempt that has been followed by another one here."""
        answer = self._answers.get(run_id.rpartition("/")[0])
        return answer if answer is not None and answer.claim.run_id == run_id else None

    def _abort(self, request_id: str, outcome: str) -> Answer | None:
        """Forget an answer in the making; None when there was none any more."""
        answer = self._leave(request_id, outcome)
        if answer is not None:
            self._engine.abort(answer.claim.run_id)
        return answer

    def _leave(self, request_id: str, outcome: str) -> Answer | None:
        """Forget an answer; None when there was none any more."""
        answer = self._answers.pop(request_id, None)
        if answer is not None:
            answer.leave(outcome)
        return answer
