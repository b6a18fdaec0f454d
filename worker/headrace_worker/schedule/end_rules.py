"""EndRules: with which token a sequence ends, and why."""

from dataclasses import dataclass

from headrace_shared.protocol.event import FinishReason
from headrace_shared.protocol.sampling import RepetitionSpec
from headrace_worker.schedule.ending import Ending
from headrace_worker.schedule.request import Sequence


@dataclass(frozen=True, slots=True)
class EndRules:
    """A pure function of a sequence and its next token."""

    eos_token_ids: frozenset[int]
    context_tokens: int
    """Prompt and output together."""

    def ending(self, sequence: Sequence, token_id: int) -> Ending | None:
        """Why the sequence would end with that token: end-of-text before stop tokens before length before repetition."""
        stopping = sequence.stopping
        output_len = sequence.output_len + 1
        if output_len >= stopping.min_tokens:
            if token_id in self.eos_token_ids and not stopping.ignore_eos:
                return Ending(FinishReason.LENGTH if sequence.broken else FinishReason.STOP)
            if token_id in sequence.stop_token_ids:
                return Ending(FinishReason.STOP, token_id)
        if output_len >= stopping.max_tokens or sequence.num_tokens + 1 >= self.context_tokens:
            return Ending(FinishReason.LENGTH)
        repetition = stopping.repetition
        if repetition is not None and output_len >= stopping.min_tokens and _repeats(sequence, token_id, repetition):
            return Ending(FinishReason.REPETITION)
        return None

    def most_guesses(self, sequence: Sequence) -> int:
        """After so many tokens there is still one to be drawn."""
        left = sequence.stopping.max_tokens - sequence.output_len
        return min(left, self.context_tokens - sequence.num_tokens) - 1

    def before_end(self, sequence: Sequence, guesses: list[int]) -> list[int]:
        """The first of some tokens that may follow, up to the one that would be the last."""
        stopping = sequence.stopping
        for place, token_id in enumerate(guesses):
            ends = token_id in sequence.stop_token_ids or (token_id in self.eos_token_ids and not stopping.ignore_eos)
            if ends and sequence.output_len + place + 1 >= stopping.min_tokens:
                return guesses[:place]
        return guesses


def _repeats(sequence: Sequence, token_id: int, spec: RepetitionSpec) -> bool:
    """Whether the output ends, with that token, with a pattern that comes as often in a row as it says."""
    reach = spec.max_pattern_tokens * spec.min_count
    recent = sequence.token_ids[max(sequence.prompt_len, sequence.num_tokens + 1 - reach) :]
    recent.append(token_id)
    longest = min(spec.max_pattern_tokens, len(recent) // spec.min_count)
    return any(
        # The last token first, where most stretches fail. One that moved by a size is the same consists of such a pattern.
        recent[-1] == recent[-1 - size]
        and recent[size - size * spec.min_count :] == recent[-size * spec.min_count : -size]
        for size in range(spec.min_pattern_tokens, longest + 1)
    )
