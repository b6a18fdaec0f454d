"""What one step computes, what came out of it, and what that means for each sequence."""

from collections.abc import Callable
from dataclasses import dataclass, field

from headrace_shared.protocol.event import FinishReason, TokenLogprob
from headrace_worker.schedule.beam import Candidate
from headrace_worker.schedule.request import Sequence
from headrace_worker.schedule.step_cost import Load
from headrace_worker.schedule.swap import Swaps


class StepGivenUpError(Exception):
    """The plan became unwanted while it was computed: nothing came out of it."""


@dataclass(slots=True)
class Slice:
    """Tokens ``[start, start + count)`` of one sequence, computed in this step.

    ``sequence.block_table`` has a place for each of them, and for every token before them.
    """

    sequence: Sequence
    start: int
    count: int
    samples: bool
    """The slice reaches the sequence's last token, and that token's logits draw the next one."""
    guesses: list[int] = field(default_factory=list)
    """Tokens that may follow the sequence's last one, and are computed behind it; ``count`` includes them."""

    @property
    def prompt_scores(self) -> int:
        """How many of the slice's first tokens have logits that score a prompt token; 0 when nobody asked.

        The logits of token ``i`` score token ``i + 1``, so those of the prompt's last token score none.
        """
        if self.sequence.prompt_scores is None:
            return 0
        return max(0, min(self.count, self.sequence.prompt_len - 1 - self.start))


@dataclass(slots=True)
class Plan:
    """One step: first the sequences that decode (one token each), then those with guesses and the chunks of prompts.

    Valid until it is committed; no second plan may be made before that.
    """

    slices: list[Slice] = field(default_factory=list)
    copies: list[tuple[int, int]] = field(default_factory=list)
    """(from, to): blocks whose content is copied first, all of it read before any is written."""
    swaps: Swaps = field(default_factory=lambda: Swaps([], []))
    """Copied after that, those that leave before those that come back: what goes makes room for what comes."""
    load: Load = field(default_factory=Load)
    """What it amounts to."""
    interruptible: bool = False
    """All of it is background: it may be given up for somebody else, and is planned again."""
    unwanted: Callable[[], bool] | None = None
    """Asked while it is computed: whether it is to be given up. Set by the engine."""

    @property
    def num_tokens(self) -> int:
        return sum(part.count for part in self.slices)

    def __bool__(self) -> bool:
        return bool(self.slices)


Drawn = tuple[int, TokenLogprob | None]
"""A token, and its log-probabilities where the request asks for them."""


@dataclass(slots=True)
class Sampled:
    """What the model said to a plan."""

    token_ids: list[int] = field(default_factory=list)
    """One per slice with ``samples``, in the plan's order."""
    logprobs: list[TokenLogprob | None] = field(default_factory=list)
    """Aligned with ``token_ids``; None where the request asks for none."""
    further: dict[Sequence, list[Drawn]] = field(default_factory=dict)
    """What was drawn after a slice's guesses, as far as these were what was drawn: one more than were right, less the one
    in ``token_ids``."""
    candidates: dict[Sequence, list[Candidate]] = field(default_factory=dict)
    """For each beam that a slice samples: its best ways to go on. Its entry in ``token_ids`` means nothing."""
    failed: dict[Sequence, str] = field(default_factory=dict)
    """Sequences whose requests cannot go on, and why. Their other entries mean nothing."""
    prompt_logprobs: list[tuple[Slice, list[TokenLogprob]]] = field(default_factory=list)
    """For each slice with ``prompt_scores > 0``: that many entries, for tokens ``[start + 1, ...)``."""
    forward_s: float = 0.0
    """How long the model itself took, where that is known; without inputs, logits and sampling."""


@dataclass(slots=True)
class SequenceOutput:
    """What one step brought for one sequence. The one with ``finish_reason`` is its last."""

    request_id: str
    choice: int
    token_ids: list[int]
    """New tokens; empty only for a request that generates none (``max_tokens`` 0), or a beam search's missing answer."""
    logprobs: list[TokenLogprob] | None = None
    """Aligned with ``token_ids``; None when the request asks for none."""
    finish_reason: FinishReason | None = None
    stop_reason: int | None = None
    """The id out of ``stop_token_ids`` that ended the sequence; None for end-of-text and length."""
    prompt_logprobs: list[TokenLogprob | None] | None = None
    """One entry per prompt token, the first None. Set once per request, on its very first output."""
    failure: str | None = None
    """The request has ended without an answer: why."""
    first: bool = False
    """The sequence's first output in this attempt: its prefill is done."""
