"""StepCost: what a step takes by its size, learned from the steps that were measured.

Steps of about one size share a cell, which remembers the median of its latest times: a step that was
held up by something else changes nothing. A line with no negative slope goes through the cells. What
is seldom seen is not forgotten, only trusted less than what is new: a worker that has long been full
still knows what few rows cost.
"""

from collections import OrderedDict, deque
from math import log2
from statistics import median
from typing import NamedTuple

_KEPT_TIMES = 7
"""Per cell; the median outvotes three that are wrong."""
_MOST_CELLS = 128
_TRUST_HALVES = 512
"""Steps after which a cell that was not seen again counts half."""
_REFIT_EVERY = 16
_SWEEPS = 60
_FEWEST_STEPS = 6
"""Before, nothing is said."""
_SCALES = (1.0, 64.0, 8.0, 8192.0, 65536.0)
"""Brings the line's terms to one order of magnitude."""
_CALM = 1e-4
"""Keeps terms that cannot be told apart from drifting: they share what they cost together."""
_ROUNDING = 1e-6


class Load(NamedTuple):
    """The size of a step."""

    prefill_tokens: int = 0
    decode_rows: int = 0
    decode_context: int = 0
    """Tokens that the decoding rows attend to, together."""
    prefill_context: int = 0
    """Pairs of a prompt's token and one that it attends to."""

    @classmethod
    def of(cls, start: int, count: int) -> "Load":
        """That of the tokens ``[start, start + count)`` of one sequence."""
        if count == 1:
            return cls(decode_rows=1, decode_context=start + 1)
        return cls(prefill_tokens=count, prefill_context=count * start + count * (count + 1) // 2)

    def plus(self, other: "Load") -> "Load":
        return Load(self[0] + other[0], self[1] + other[1], self[2] + other[2], self[3] + other[3])

    def minus(self, other: "Load") -> "Load":
        return Load(self[0] - other[0], self[1] - other[1], self[2] - other[2], self[3] - other[3])


def guesses_load(start: int, count: int) -> Load:
    """That of so many guesses behind the token at ``start``: each is a row like one that decodes."""
    return Load(decode_rows=count, decode_context=count * (start + 1) + count * (count + 1) // 2)


class _Cell:
    """Steps of about one size."""

    def __init__(self) -> None:
        self.load = Load()
        self.times: deque[float] = deque(maxlen=_KEPT_TIMES)
        self.seen = 0
        """At which step it was last seen."""


class StepCost:
    """Deterministic: the same steps in the same order lead to the same answers."""

    def __init__(self) -> None:
        self._cells: OrderedDict[tuple[int, ...], _Cell] = OrderedDict()
        self._steps = 0
        self._slopes = [0.0] * len(_SCALES)

    def note(self, load: Load, seconds: float) -> None:
        """A step of that size has taken that long."""
        # Half octaves: the cell's latest size stands for all of them.
        key = tuple(round(2 * log2(1 + size)) for size in load)
        cell = self._cells.setdefault(key, _Cell())
        self._cells.move_to_end(key)
        self._steps += 1
        cell.load, cell.seen = load, self._steps
        cell.times.append(seconds)
        if len(self._cells) > _MOST_CELLS:
            self._cells.popitem(last=False)
        if self._steps <= 4 * _REFIT_EVERY or self._steps % _REFIT_EVERY == 0:
            self._fit()

    def seconds(self, load: Load) -> float | None:
        """What a step of that size would take; None as long as too little is known."""
        if self._steps < _FEWEST_STEPS:
            return None
        return sum(slope * term for slope, term in zip(self._slopes, _terms(load), strict=True))

    def _fit(self) -> None:
        """Least squares of the relative errors, with no negative slope: coordinate descent, from the last slopes on."""
        size = len(_SCALES)
        products = [[_CALM if row == column else 0.0 for column in range(size)] for row in range(size)]
        wanted = [0.0] * size
        for cell in self._cells.values():
            seconds = max(median(cell.times), _ROUNDING)
            trust = 0.5 ** ((self._steps - cell.seen) / _TRUST_HALVES)
            # Relative to its time, so that a small step counts as much as a large one.
            terms = [term / seconds for term in _terms(cell.load)]
            for row, term in enumerate(terms):
                wanted[row] += trust * term
                for column in range(size):
                    products[row][column] += trust * term * terms[column]
        for _ in range(_SWEEPS):
            for row in range(size):
                others = sum(products[row][column] * self._slopes[column] for column in range(size) if column != row)
                self._slopes[row] = max(0.0, (wanted[row] - others) / products[row][row])


def _terms(load: Load) -> list[float]:
    return [size / scale for size, scale in zip((1, *load), _SCALES, strict=True)]
