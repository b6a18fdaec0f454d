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
        return Plan(list(self._slices.values()), copies)
