"""Payoff: how many guesses are worth their time, learned from steps and from what was accepted.

A guess pays when the tokens to be expected of it per second of its own are more than the step makes without it.
"""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

from headrace_worker.schedule.request import Sequence
from headrace_worker.schedule.step_cost import Load, StepCost

_FORGET_GUESS = 0.95
_HOPE = 0.7
"""Share of guesses that are right, before any is known."""
_TRUST = 2.0
"""How many guesses of its own outweigh what a sequence has in common with others."""
_LOOK_AGAIN = 64
"""Steps without a guess after which a sequence tries one."""


@dataclass(slots=True)
class _Record:
    """What became of guesses, the older ones counting less."""

    right: float = 0.0
    tried: float = 0.0
    idle: int = 0

    def note(self, right: int, tried: int) -> None:
        for _ in range(tried):
            self.right *= _FORGET_GUESS
            self.tried = self.tried * _FORGET_GUESS + 1
        self.right += right

    def share(self, otherwise: float) -> float:
        return (self.right + _TRUST * otherwise) / (self.tried + _TRUST)


class Payoff:
    """Weighs guesses of all sequences of a step against each other."""

    def __init__(self) -> None:
        self._all = _Record()
        self._records: WeakKeyDictionary[Sequence, _Record] = WeakKeyDictionary()

    def accepted(self, sequence: Sequence, right: int, guesses: int) -> None:
        """Of so many guesses the first ones were right."""
        tried = min(guesses, right + 1)
        for record in (self._record(sequence), self._all):
            record.note(right, tried)

    def limit(self, lengths: dict[Sequence, int], load: Load, cost: StepCost) -> dict[Sequence, int]:
        """How many of each sequence's guesses to take; ``load``: that of the step without any.

        Takes the likeliest first, as long as they pay; as long as nothing is known of steps, all.
        """
        seconds, per_guess = _times(load, cost)
        if not seconds:
            return lengths
        common = self._all.share(_HOPE)
        taken = dict.fromkeys(lengths, 0)
        tokens = float(load.decode_rows)
        for chance, sequence in self._by_chance(lengths, common):
            if chance * seconds <= per_guess * tokens:
                break
            taken[sequence] += 1
            tokens += chance
            seconds += per_guess
        for sequence, count in taken.items():
            self._look_again(sequence, count, lengths, taken)
        return taken

    def _by_chance(self, lengths: dict[Sequence, int], common: float) -> list[tuple[float, Sequence]]:
        """Every guess with the chance that it and all before it are right, the likeliest first."""
        chances = [
            (share**place, sequence)
            for sequence, length in lengths.items()
            for share in (self._record(sequence).share(common),)
            for place in range(1, length + 1)
        ]
        return sorted(chances, key=lambda each: -each[0])

    def _look_again(
        self, sequence: Sequence, count: int, lengths: dict[Sequence, int], taken: dict[Sequence, int]
    ) -> None:
        record = self._record(sequence)
        record.idle = 0 if count else record.idle + 1
        if record.idle >= _LOOK_AGAIN and lengths[sequence]:
            taken[sequence], record.idle = 1, 0

    def _record(self, sequence: Sequence) -> _Record:
        record = self._records.get(sequence)
        if record is None:
            record = self._records[sequence] = _Record()
        return record


def _times(load: Load, cost: StepCost) -> tuple[float, float]:
    """Seconds of a step, and of one row more in it; 0 as long as too little is known."""
    rows = max(1, load.decode_rows)
    alone, doubled = (
        cost.seconds(load),
        cost.seconds(load.plus(Load(decode_rows=rows, decode_context=load.decode_context))),
    )
    return (0.0, 0.0) if alone is None or doubled is None else (alone, (doubled - alone) / rows)
