"""A plan in the making."""

from headrace_worker.schedule.plan import Plan, Slice
from headrace_worker.schedule.request import Sequence


class Draft:
    """Slices in the order they were added, and the tokens that are left of the step's budget.

    A slice can be taken back, because a sequence that is already planned may be preempted for a
    more urgent one.
    """

    def __init__(self, budget_tokens: int) -> None:
        self.budget = budget_tokens
        self._slices: dict[Sequence, Slice] = {}

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._slices

    def __len__(self) -> int:
        return len(self._slices)

    def decodes(self) -> list[Slice]:
        """Slices of one token after which another one is drawn; those of beams aside."""
        return [
            part
            for part in self._slices.values()
            if part.samples and part.count == 1 and part.sequence.sampling.beams is None
        ]

    def widen(self, part: Slice, guesses: list[int]) -> None:
        """Compute guesses behind a slice's token; they must fit into the budget."""
        part.guesses = guesses
        part.count += len(guesses)
        self.budget -= len(guesses)

    def add(self, part: Slice) -> None:
        self._slices[part.sequence] = part
        self.budget -= part.count

    def drop(self, sequence: Sequence) -> None:
        """Take back the sequence's slice, if it has one."""
        part = self._slices.pop(sequence, None)
        if part is not None:
            self.budget += part.count

    def plan(self, copies: list[tuple[int, int]]) -> Plan:
        """``copies`` as in ``Plan``."""
        # Stable: slices of one token first, as far as they came first.
        slices = sorted(self._slices.values(), key=lambda part: bool(part.guesses))
        return Plan(slices, copies)
