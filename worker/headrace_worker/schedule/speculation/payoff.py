"""Payoff: how many guesses are worth their time, learned from steps and from what was accepted.

A guess pays when the tokens to be expected of it per second of its own are more than the step makes without it.
"""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

from headrace_worker.schedule.request import Sequence

_FORGET_STEP = 0.98
_FORGET_GUESS = 0.95
_HOPE = 0.7
"""Share of guesses that are right, before any is known."""
_TRUST = 2.0
"""How many guesses of its own outweigh what a sequence has in common with others."""
_LOOK_AGAIN = 64
"""Steps without a guess after which a sequence tries one."""
_LEAST_STEPS = 8


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


class StepTime:
    """Seconds of a step by its rows: a straight line through the latest ones."""

    def __init__(self) -> None:
        self._weight = self._rows = self._seconds = self._squares = self._products = 0.0
        self.steps = 0
        self._per_row = 0.0

    def note(self, rows: int, seconds: float) -> None:
        keep = _FORGET_STEP
        self._weight = self._weight * keep + 1
        self._rows = self._rows * keep + rows
        self._seconds = self._seconds * keep + seconds
        self._squares = self._squares * keep + rows * rows
        self._products = self._products * keep + rows * seconds
        self.steps += 1
        spread = self._squares / self._weight - (self._rows / self._weight) ** 2
        # Steps that are all alike say nothing of the slope: what was known stays.
        if spread > 0.05:
            together = self._products / self._weight - self._rows * self._seconds / self._weight**2
            self._per_row = max(0.0, together / spread)

    @property
    def per_row(self) -> float:
        """What one more row costs, seconds."""
        return self._per_row

    def at(self, rows: int) -> float:
        """How long a step with so many rows takes, seconds."""
        mean = self._seconds / self._weight
        return max(mean / 10, mean + self._per_row * (rows - self._rows / self._weight))


class Payoff:
    """Weighs guesses of all sequences of a step against each other."""

    def __init__(self) -> None:
        self.time = StepTime()
        self._all = _Record()
        self._records: WeakKeyDictionary[Sequence, _Record] = WeakKeyDictionary()

    def accepted(self, sequence: Sequence, right: int, guesses: int) -> None:
        """Of so many guesses the first ones were right."""
        tried = min(guesses, right + 1)
        for record in (self._record(sequence), self._all):
            record.note(right, tried)

    def limit(self, lengths: dict[Sequence, int], rows: int) -> dict[Sequence, int]:
        """How many of each sequence's guesses to take; ``rows``: those of the step without any.

        Takes the likeliest first, as long as they pay; before a few steps are known, all.
        """
        if self.time.steps < _LEAST_STEPS:
            return lengths
        common = self._all.share(_HOPE)
        taken = dict.fromkeys(lengths, 0)
        tokens, seconds = float(len(lengths)), self.time.at(rows)
        for chance, sequence in self._by_chance(lengths, common):
            if chance * seconds <= self.time.per_row * tokens:
                break
            taken[sequence] += 1
            tokens += chance
            seconds += self.time.per_row
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
