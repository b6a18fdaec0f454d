"""PrefillShares: how prompts that are computed at the same time share the tokens of a step."""

from collections.abc import Iterable
from dataclasses import dataclass

from headrace_worker.schedule.draft import Draft
from headrace_worker.schedule.request import Sequence


@dataclass(frozen=True, slots=True)
class PrefillLimits:
    """What the operator allows; as it is, one prompt after the other. Raises ValueError for limits that contradict each other."""

    most_partial: int = 1
    """Prompts that share a step's tokens evenly; what they leave goes to those behind them."""
    most_long: int = 1
    """How many of the prompts in a step may be long ones; shorter ones pass those beyond."""
    long_tokens: int = 0
    """More tokens than these make a prompt long; 0: none is."""

    def __post_init__(self) -> None:
        if min(self.most_partial, self.most_long) < 1 or self.long_tokens < 0:
            raise ValueError("partial prefills must be at least 1, and the threshold of long ones at least 0")
        if self.most_long > self.most_partial:
            raise ValueError(
                f"max_long_partial_prefills ({self.most_long}) must not be above max_num_partial_prefills "
                f"({self.most_partial})"
            )


class PrefillShares:
    """Those of one step."""

    def __init__(self, limits: PrefillLimits, prompts: Iterable[Sequence], draft: Draft) -> None:
        """``prompts``: all that are to be computed, the first in order first."""
        self._limits = limits
        self._long: set[Sequence] = set()
        self._sharing: dict[Sequence, None] = {}
        if limits.most_partial > 1 or limits.long_tokens:
            for sequence in prompts:
                self._admit(sequence)
            self._share = _level([sequence.remaining for sequence in self._sharing], draft.room_for_prompts())

    def must_wait(self, sequence: Sequence) -> bool:
        """Whether it is a long one for which there is no place in this step."""
        return self._is_long(sequence) and sequence not in self._long

    def cap(self, sequence: Sequence) -> int:
        """Most tokens of it in this step."""
        return self._share if sequence in self._sharing else sequence.remaining

    def _admit(self, sequence: Sequence) -> None:
        if self._is_long(sequence):
            if len(self._long) == self._limits.most_long:
                return
            self._long.add(sequence)
        if len(self._sharing) < self._limits.most_partial:
            self._sharing[sequence] = None

    def _is_long(self, sequence: Sequence) -> bool:
        return 0 < self._limits.long_tokens < sequence.remaining


def _level(wanted: list[int], tokens: int) -> int:
    """The share that each may have at most, so that those that want less leave the rest to the others."""
    left, level = tokens, tokens
    for served, want in enumerate(sorted(wanted)):
        level = left // (len(wanted) - served)
        if want > level:
            break
        left -= want
    return max(1, level)
