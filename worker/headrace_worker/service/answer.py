"""Answer: one claimed request while this worker works on it."""

import time
from dataclasses import dataclass, field

from headrace_shared.clock import mono_s
from headrace_shared.protocol.codec import unpack_ids
from headrace_shared.protocol.event import Delta, Event, Finished, FinishReason, PromptScored, Started
from headrace_shared.queue.claims import Claim
from headrace_shared.text.tokenizer import Tokenizer
from headrace_worker.schedule.plan import SequenceOutput
from headrace_worker.schedule.request import Request
from headrace_worker.service.attempts import Attempt
from headrace_worker.service.choice import ChoiceText


@dataclass(slots=True)
class _History:
    """What earlier attempts have said, read back from the log."""

    tokens: dict[int, list[int]] = field(default_factory=dict)
    finished: set[int] = field(default_factory=set)
    prompt_scored: bool = False


class Answer:
    """Turns engine outputs into events; knows when the request is complete."""

    def __init__(self, claim: Claim, tokenizer: Tokenizer, worker_id: str, attempt: Attempt) -> None:
        self.claim = claim
        self._attempt = attempt
        self._worker_id = worker_id
        self._tokenizer = tokenizer
        job = claim.job
        prompt_ids = unpack_ids(job.prompt)
        self._prompt_tokens = len(prompt_ids)
        self._history = _read_history(claim.log)
        self._choices: dict[int, ChoiceText] = {}
        for choice in range(job.n):
            if choice not in self._history.finished:
                text = ChoiceText(tokenizer, prompt_ids, job.stopping)
                text.replay(self._history.tokens.get(choice, ()))
                self._choices[choice] = text
        self._completion_tokens = sum(len(ids) for ids in self._history.tokens.values())
        self._finish_reasons: list[FinishReason] = []
        self._request: Request | None = None
        self._claimed_s = mono_s()
        self._first_s: float | None = None

    @property
    def request_id(self) -> str:
        return self.claim.request_id

    @property
    def queue_ms(self) -> float:
        return float(max(0, self.claim.claimed_ms - self.claim.enqueued_ms))

    @property
    def complete(self) -> bool:
        return not self._choices

    @property
    def used_tokens(self) -> int:
        """Prompt and everything generated so far, by earlier attempts too: what the tenant has had."""
        return self._prompt_tokens + self._completion_tokens

    def runs(self, choice: int) -> bool:
        """Whether more tokens of that choice are wanted."""
        return choice in self._choices

    def to_request(self) -> Request:
        """The engine's view of it. Raises ValueError when the job cannot be run at all."""
        self._request = Request.from_job(
            self.claim.job,
            arrival=time.monotonic_ns(),
            resumed=self._history.tokens,
            finished=self._history.finished,
            prompt_scored=self._history.prompt_scored,
            run_id=self.claim.run_id,
        )
        self._request.limit_thinking(self._tokenizer.token_bytes)
        return self._request

    def started(self) -> Started:
        return Started(self._worker_id, self.claim.attempt, self.queue_ms, self._attempt.traceparent)

    def feed(self, output: SequenceOutput) -> list[Event]:
        """Events for one engine output; none when its choice has already ended."""
        text = self._choices.get(output.choice)
        if text is None:
            return []
        if self._first_s is None:
            self._first_s = mono_s()
        self._attempt.token()
        events: list[Event] = []
        if output.prompt_logprobs is not None:
            events.append(PromptScored(output.prompt_logprobs))
        delta = text.feed(output)
        self._completion_tokens += len(delta.token_ids)
        events.append(delta)
        if delta.finish_reason is not None:
            self._finish_reasons.append(delta.finish_reason)
            del self._choices[output.choice]
        return events

    def leave(self, outcome: str) -> None:
        """Close the attempt: see ``Attempt.end``."""
        self._attempt.end(outcome, self._prompt_tokens, self._completion_tokens, self._finish_reasons)

    def finished(self) -> Finished:
        """The closing event, with usage and timings of this attempt."""
        now = mono_s()
        first = self._first_s if self._first_s is not None else now
        return Finished(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            cached_tokens=self._request.cached_tokens if self._request else 0,
            queue_ms=self.queue_ms,
            prefill_ms=(first - self._claimed_s) * 1000,
            decode_ms=(now - first) * 1000,
        )


def _read_history(log: list[Event]) -> _History:
    history = _History()
    for event in log:
        if isinstance(event, Delta):
            history.tokens.setdefault(event.choice, []).extend(event.token_ids)
            if event.finish_reason is not None:
                history.finished.add(event.choice)
        elif isinstance(event, PromptScored):
            history.prompt_scored = True
    return history
