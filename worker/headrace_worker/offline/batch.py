"""One call's requests through the engine, step by step, until all of them have ended."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from headrace_shared.protocol.codec import unpack_ids
from headrace_shared.protocol.event import Delta, TokenLogprob
from headrace_shared.protocol.job import GenerateJob
from headrace_shared.text.tokenizer import Tokenizer
from headrace_worker.engine.generate import GenerateEngine
from headrace_worker.offline.outputs import CompletionOutput, RequestOutput, positions, prompt_positions
from headrace_worker.schedule.plan import SequenceOutput
from headrace_worker.schedule.request import Request
from headrace_worker.service.choice import ChoiceText


@dataclass
class _Choice:
    text: ChoiceText
    deltas: list[Delta] = field(default_factory=list)

    def output(self, index: int, tokenizer: Tokenizer) -> CompletionOutput:
        last = self.deltas[-1]
        told = [delta.logprobs for delta in self.deltas if delta.logprobs is not None]
        entries: list[TokenLogprob] | None = [entry for each in told for entry in each] if told else None
        assert last.finish_reason is not None  # noqa: S101 - it has ended
        return CompletionOutput(
            index=index,
            text="".join(delta.text for delta in self.deltas),
            token_ids=[token_id for delta in self.deltas for token_id in delta.token_ids],
            cumulative_logprob=None if entries is None else sum(entry.logprob for entry in entries),
            logprobs=None if entries is None else positions(entries, tokenizer),
            finish_reason=last.finish_reason.value,
            stop_reason=last.stop_reason,
        )


class Running:
    """One prompt on its way through the engine."""

    def __init__(self, job: GenerateJob, prompt: str | None, arrival: int, tokenizer: Tokenizer) -> None:
        self.request = Request.from_job(job, arrival=arrival)
        self.prompt_ids = unpack_ids(job.prompt)
        self.scores: list[TokenLogprob | None] | None = None
        """Of the prompt's tokens, where they were asked for."""
        self._prompt = prompt
        self._tokenizer = tokenizer
        self._choices = [_Choice(ChoiceText(tokenizer, self.prompt_ids, job.stopping)) for _ in range(job.n)]

    @property
    def ended(self) -> bool:
        return all(choice.text.ended for choice in self._choices)

    @property
    def output_tokens(self) -> int:
        return sum(len(delta.token_ids) for choice in self._choices for delta in choice.deltas)

    def feed(self, output: SequenceOutput) -> bool:
        """Take in one output; True when its choice has ended before the engine knows."""
        if output.failure is not None:
            raise RuntimeError(f"request {output.request_id}: {output.failure}")
        choice = self._choices[output.choice]
        if choice.text.ended:
            return False
        if output.prompt_logprobs is not None:
            self.scores = output.prompt_logprobs
        delta = choice.text.feed(output)
        choice.deltas.append(delta)
        return delta.finish_reason is not None and output.finish_reason is None

    def output(self) -> RequestOutput:
        return RequestOutput(
            request_id=self.request.request_id,
            prompt=self._prompt,
            prompt_token_ids=self.prompt_ids,
            prompt_logprobs=None if self.scores is None else prompt_positions(self.scores, self._tokenizer),
            outputs=[choice.output(index, self._tokenizer) for index, choice in enumerate(self._choices)],
            num_cached_tokens=self.request.cached_tokens,
        )


def run_all(engine: GenerateEngine, batch: Sequence[Running], on_end: Callable[[Running], None]) -> None:
    """Until every request has ended; ``on_end`` is told of each.

    Raises ValueError, before anything runs, for one that the engine cannot take. Whatever ends it early, the engine
    has none of them left.
    """
    waiting = {running.request.request_id: running for running in batch}
    try:
        for running in batch:
            engine.add(running.request)
        while waiting and engine.has_work():
            for output in engine.step():
                running_one = waiting.get(output.request_id)
                if running_one is None:
                    continue
                if running_one.feed(output):
                    engine.finish(output.request_id, output.choice)
                if running_one.ended:
                    del waiting[output.request_id]
                    on_end(running_one)
        if waiting:
            raise RuntimeError(f"the engine has lost {len(waiting)} requests")
    finally:
        _forget(engine, waiting)


def _forget(engine: GenerateEngine, request_ids: Iterable[str]) -> None:
    for request_id in request_ids:
        engine.abort(request_id)
