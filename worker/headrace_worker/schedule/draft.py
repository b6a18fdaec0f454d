"""A plan in the making."""

from math import inf

from headrace_worker.schedule.plan import Plan, Slice
from headrace_worker.schedule.request import Sequence
from headrace_worker.schedule.step_cost import Load, guesses_load
from headrace_worker.schedule.step_pace import LEAST_CHUNK, StepPace
from headrace_worker.schedule.swap import Swaps


class Draft:
    """Slices in the order they were added, and what is left of the step's budgets of tokens and time.

    A slice can be taken back, because a sequence that is already planned may be preempted for a
    more urgent one.
    """

    def __init__(self, budget_tokens: int, pace: StepPace) -> None:
        self.budget = budget_tokens
        self.load = Load()
        self.held_back = False
        """There was more to compute for background sequences than the step had time for."""
        self._pace = pace
        self._slices: dict[Sequence, Slice] = {}
        self._background_limit_s = 0.0
        self._interruptible = False

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._slices

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
        self.load = self.load.plus(guesses_load(part.start, len(guesses)))

    def begin_background(self) -> None:
        """What is added from now on may only slow down by so much what is there already."""
        self._interruptible = not self._slices
        self._background_limit_s = inf if self._interruptible else self._pace.background_limit_s(self.load)

    def room_for(self, sequence: Sequence) -> int:
        """How many of a sequence's next tokens may be added."""
        start, most = sequence.num_computed, min(sequence.remaining, self.budget)
        if sequence.background:
            fitting = self._pace.fitting(self.load, start, most, self._background_limit_s)
            self.held_back |= not fitting
            return fitting
        if sequence.remaining == 1 or not self.load.decode_rows:
            return most
        fitting = self._pace.fitting(self.load, start, most, self._pace.target_s)
        # The first prompt goes on in any case.
        return fitting if self.load.prefill_tokens else max(fitting, min(most, LEAST_CHUNK))

    def room_for_prompts(self) -> int:
        """How many tokens of prompts may be added, of one that begins."""
        limit_s = self._pace.target_s if self.load.decode_rows else inf
        return max(self._pace.fitting(self.load, 0, self.budget, limit_s), min(self.budget, LEAST_CHUNK))

    def add(self, part: Slice) -> None:
        self._slices[part.sequence] = part
        self.budget -= part.count
        self.load = self.load.plus(Load.of(part.start, part.count))

    def drop(self, sequence: Sequence) -> None:
        """Take back the sequence's slice, if it has one."""
        part = self._slices.pop(sequence, None)
        if part is not None:
            self.budget += part.count
            self.load = self.load.minus(Load.of(part.start, part.count))

    def plan(self, copies: list[tuple[int, int]], swaps: Swaps) -> Plan:
        """``copies`` and ``swaps`` as in ``Plan``."""
        # Stable: slices of one token first, as far as they came first.
        slices = sorted(self._slices.values(), key=lambda part: bool(part.guesses))
        return Plan(slices, copies, swaps, self.load, self._interruptible)
