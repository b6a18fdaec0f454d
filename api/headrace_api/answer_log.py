"""The log lines that an operator can ask for: what models answer."""

import logging
from collections.abc import Callable, Sequence
from functools import partial

from headrace_api.settings import ApiSettings
from headrace_shared.protocol.event import Delta, Event, FinishReason
from headrace_shared.protocol.job import GenerateJob

log = logging.getLogger(__name__)


class AnswerLog:
    """One job's: a line for each part of a choice if ``deltas``, and one for each whole choice, the unfinished ones too.

    Texts are as the model writes them, with thoughts and calls, and cut to ``longest`` characters.
    """

    def __init__(self, model: str, longest: int | None, job: GenerateJob, *, deltas: bool) -> None:
        self._fields: dict[str, str | int] = {"model": model, "job": job.header.request_id}
        self._longest = longest
        self._deltas = deltas
        self._texts = [""] * job.n
        self._tokens = [0] * job.n
        self._open = set(range(job.n))

    def saw(self, events: Sequence[Event]) -> None:
        for event in events:
            if not isinstance(event, Delta):
                continue
            self._texts[event.choice] = (self._texts[event.choice] + event.text)[: self._longest]
            self._tokens[event.choice] += len(event.token_ids)
            if self._deltas:
                part: dict[str, str | int] = {
                    "choice": event.choice,
                    "tokens": len(event.token_ids),
                    "text": event.text[: self._longest],
                }
                log.info("answer goes on", extra=self._fields | part)
            if event.finish_reason is not None:
                self._end(event.choice, event.finish_reason)

    def close(self) -> None:
        """To be called once, at the end: what has not ended by itself never will."""
        for choice in sorted(self._open):
            self._end(choice, FinishReason.ABORT)

    def _end(self, choice: int, reason: FinishReason) -> None:
        self._open.discard(choice)
        whole: dict[str, str | int] = {
            "choice": choice,
            "completion_tokens": self._tokens[choice],
            "finish_reason": reason.value,
            "answer": self._texts[choice],
        }
        log.info("request answered by the model", extra=self._fields | whole)


def answer_log(settings: ApiSettings, model: str, *, stream: bool) -> Callable[[GenerateJob], AnswerLog] | None:
    """Makes the log of each job; None where the operator wants none."""
    if not settings.enable_log_outputs:
        return None
    return partial(AnswerLog, model, settings.max_log_len, deltas=stream and settings.enable_log_deltas)
