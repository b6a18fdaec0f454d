"""StepPace: how long a step may take, and what fits into it."""

from dataclasses import dataclass
from math import inf

from headrace_worker.schedule.step_cost import Load, StepCost

LEAST_CHUNK = 16
"""Tokens of a prompt that a step computes however little time is left, so that prompts always go on."""


@dataclass(frozen=True, slots=True)
class PaceLimits:
    """What the operator allows. Raises ValueError for what cannot be kept."""

    target_s: float = inf
    """No prompt is computed beside sequences that decode once the step would take longer than that."""
    slack: float = 1.5
    """How much longer a step may take with background sequences than without them."""

    def __post_init__(self) -> None:
        if self.target_s <= 0:
            raise ValueError("the target for a step must be above 0")
        if self.slack < 1:
            raise ValueError("the slack for background requests must be at least 1")


class StepPace:
    """Sizes steps by what those of late have cost."""

    def __init__(self, limits: PaceLimits, cost: StepCost) -> None:
        self._limits = limits
        self._cost = cost

    @property
    def target_s(self) -> float:
        return self._limits.target_s

    def background_limit_s(self, quiet: Load) -> float:
        """How long a step may take that would be ``quiet`` without background sequences; 0: it gets none.

        A prompt's first token is awaited: the steps that compute it take no longer than they must.
        """
        if quiet.prefill_tokens:
            return 0.0
        return self._limits.slack * (self._cost.seconds(quiet) or 0.0)

    def fitting(self, load: Load, start: int, most: int, limit_s: float) -> int:
        """How many of one sequence's tokens, from ``start`` on, can be added to ``load`` within that time."""
        if limit_s == inf or most <= 0:
            return most
        if limit_s <= 0:
            return 0
        if self._fits(load.plus(Load.of(start, most)), limit_s):
            return most
        fits, too_many = 0, most
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if self._fits(load.plus(Load.of(start, middle)), limit_s):
                fits = middle
            else:
                too_many = middle
        return fits

    def _fits(self, load: Load, limit_s: float) -> bool:
        seconds = self._cost.seconds(load)
        return seconds is None or seconds <= limit_s
