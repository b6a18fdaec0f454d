"""EndRules: with which token a sequence ends, and why."""

from dataclasses import dataclass

from headrace_shared.protocol.event import FinishReason
from headrace_worker.schedule.ending import Ending
from headrace_worker.schedule.request import Sequence


@dataclass(frozen=True, slots=True)
class EndRules:
    """A pure function of a sequence and its next token."""

    eos_token_ids: frozenset[int]
    context_tokens: int
    """Prompt and output together."""

    def ending(self, sequence: Sequence, token_id: int) -> Ending | None:
        """Why the sequence would end with that token: end-of-text before stop tokens before length."""
        stopping = sequence.stopping
        output_len = sequence.output_len + 1
        if output_len >= stopping.min_tokens:
            if token_id in self.eos_token_ids and not stopping.ignore_eos:
                return Ending(FinishReason.LENGTH if sequence.broken else FinishReason.STOP)
            if token_id in sequence.stop_token_ids:
                return Ending(FinishReason.STOP, token_id)
        if output_len >= stopping.max_tokens or sequence.num_tokens + 1 >= self.context_tokens:
            return Ending(FinishReason.LENGTH)
        return None
