"""Speculation: adds guesses to a step, and keeps account of what became of them."""

from collections.abc import Callable
from dataclasses import dataclass, field

from headrace_worker.schedule.allocator import BlockAllocator
from headrace_worker.schedule.draft import Draft
from headrace_worker.schedule.end_rules import EndRules
from headrace_worker.schedule.plan import Slice
from headrace_worker.schedule.request import Sequence
from headrace_worker.schedule.speculation.payoff import Payoff
from headrace_worker.schedule.speculation.proposer import Proposer, Wish
from headrace_worker.schedule.step_cost import StepCost

CutByGrammar = Callable[[Sequence, list[int]], int]
"""How many of some guesses, the first ones, a sequence's grammar allows."""


@dataclass(slots=True)
class SpeculationStats:
    """Counts that only ever grow."""

    drafts: int = 0
    """Times that a sequence had guesses in a step."""
    draft_tokens: int = 0
    accepted_tokens: int = 0
    accepted_per_position: list[int] = field(default_factory=list)

    def copy(self) -> "SpeculationStats":
        return SpeculationStats(self.drafts, self.draft_tokens, self.accepted_tokens, list(self.accepted_per_position))


class Speculation:
    """Works on the scheduler's plans, on its behalf.

    Guesses get what a plan has left over: tokens of its budget, blocks that nobody needs. They take nothing from
    anybody, and are not made in steps that compute a prompt, which are long enough.
    """

    def __init__(
        self, proposer: Proposer, num_tokens: int, *, allowed: CutByGrammar, disable_by_batch_size: int | None = None
    ) -> None:
        """``num_tokens``: most guesses per sequence and step. ``disable_by_batch_size``: so many sequences and more get none,
        fewer always some; None: as far as they pay."""
        self._proposer = proposer
        self._most = num_tokens
        self._allowed = allowed
        self._most_sequences = disable_by_batch_size
        self._payoff = Payoff() if disable_by_batch_size is None else None
        self._stats = SpeculationStats(accepted_per_position=[0] * num_tokens)

    def stats(self) -> SpeculationStats:
        """As it is now."""
        return self._stats.copy()

    def widen(self, draft: Draft, rules: EndRules, blocks: BlockAllocator, cost: StepCost) -> None:
        """Add guesses to the slices of sequences that decode; ``cost``: what is known of steps."""
        parts = draft.decodes()
        if not parts or draft.load.prefill_tokens or self._too_many(draft.load.decode_rows):
            return
        # Background sequences get what others leave of a step, and that is no reason to make it longer.
        urgent = [part for part in parts if not part.sequence.background] or parts
        wanted = {part.sequence: min(self._most, rules.most_guesses(part.sequence)) for part in urgent}
        if self._proposer.free:
            found = self._weighed(self._guesses(wanted, rules), draft, cost)
        else:
            affordable = self._limit(wanted, draft, cost)
            found = self._guesses(_with_room(affordable, draft.budget, blocks), rules)
        for part in urgent:
            guesses = found.get(part.sequence, [])
            draft.widen(part, guesses[: _places(part.sequence, min(len(guesses), draft.budget), blocks)])

    def _limit(self, lengths: dict[Sequence, int], draft: Draft, cost: StepCost) -> dict[Sequence, int]:
        return lengths if self._payoff is None else self._payoff.limit(lengths, draft.load, cost)

    def _weighed(self, found: dict[Sequence, list[int]], draft: Draft, cost: StepCost) -> dict[Sequence, list[int]]:
        taken = self._limit({sequence: len(guesses) for sequence, guesses in found.items()}, draft, cost)
        return {sequence: guesses[: taken[sequence]] for sequence, guesses in found.items()}

    def _guesses(self, wanted: dict[Sequence, int], rules: EndRules) -> dict[Sequence, list[int]]:
        """What is proposed, and may follow as far as is known."""
        wishes = [Wish(sequence, most) for sequence, most in wanted.items() if most > 0]
        proposals = self._proposer.propose(wishes) if wishes else []
        found = {wish.sequence: guesses for wish, guesses in zip(wishes, proposals, strict=True)}
        return {sequence: self._cut(sequence, guesses, rules) for sequence, guesses in found.items() if guesses}

    def note(self, part: Slice, accepted: int) -> None:
        """A slice with guesses has been computed, and so many of them were right."""
        stats = self._stats
        stats.drafts += 1
        stats.draft_tokens += len(part.guesses)
        stats.accepted_tokens += accepted
        for place in range(accepted):
            stats.accepted_per_position[place] += 1
        if self._payoff is not None:
            self._payoff.accepted(part.sequence, accepted, len(part.guesses))

    def ended(self, sequence: Sequence) -> None:
        self._proposer.ended(sequence)

    def _too_many(self, sequences: int) -> bool:
        return self._most_sequences is not None and sequences >= self._most_sequences

    def _cut(self, sequence: Sequence, guesses: list[int], rules: EndRules) -> list[int]:
        guesses = rules.before_end(sequence, guesses)
        return guesses[: self._allowed(sequence, guesses)] if sequence.grammar is not None else guesses


def _with_room(wanted: dict[Sequence, int], budget: int, blocks: BlockAllocator) -> dict[Sequence, int]:
    """As many of the guesses as a step's tokens and the blocks allow, the most urgent sequences first."""
    room: dict[Sequence, int] = {}
    for sequence, most in wanted.items():
        room[sequence] = max(0, _places(sequence, min(most, budget), blocks))
        budget -= room[sequence]
    return room


def _places(sequence: Sequence, most: int, blocks: BlockAllocator) -> int:
    """How many of the guesses fit into blocks that are free, or the sequence's own."""
    if most > 0 and not blocks.grow(sequence, sequence.num_tokens + most):
        most = min(most, blocks.places(sequence) - sequence.num_tokens)
    return most
