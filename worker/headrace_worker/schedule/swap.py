"""SwapSpace: what is kept in the host's memory of sequences that had to make room."""

from dataclasses import dataclass
from typing import NamedTuple

from headrace_worker.schedule.request import Sequence


class Swaps(NamedTuple):
    """What a step copies between K/V blocks and places of the host."""

    out: list[tuple[int, int]]
    """(block, place)"""
    back: list[tuple[int, int]]
    """(place, block)"""


@dataclass(slots=True)
class _Kept:
    """Of one sequence."""

    places: dict[int, int]
    """Of blocks, by their index in the sequence's table; not every one has to be there."""
    num_computed: int
    """Tokens that were in its blocks."""


class SwapSpace:
    """Hands out places ``[0, num_places)`` of the host's memory, each as large as a block.

    A step's copies are put down while it is planned, and made before it computes anything. So a place that was read is
    free only after the plan, and whoever comes back in a plan and has to go again in the same one still has its places.
    """

    def __init__(self, num_places: int) -> None:
        # Reversed, so that an untouched space hands out 0, 1, 2, ...: memory is taken as it is first written.
        self._free = list(range(num_places - 1, -1, -1))
        self._total = num_places
        self._kept: dict[Sequence, _Kept] = {}
        self._coming: dict[Sequence, tuple[_Kept, list[tuple[int, int]]]] = {}
        self._out: list[tuple[int, int]] = []

    @property
    def total(self) -> int:
        return self._total

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def sequences(self) -> int:
        """How many have something here."""
        return len(self._kept)

    def keep(self, sequence: Sequence, blocks: dict[int, int]) -> None:
        """Copy a sequence's blocks, by their index in its table, before they are given away; the first ones, as far as there is room."""
        if (coming := self._coming.pop(sequence, None)) is not None:
            self._kept[sequence] = coming[0]
            return
        places = {index: self._free.pop() for index in sorted(blocks)[: len(self._free)]}
        if places:
            self._kept[sequence] = _Kept(places, sequence.num_computed)
            self._out += [(blocks[index], place) for index, place in places.items()]

    def found(self, sequence: Sequence, first: int) -> int:
        """How many of a sequence's blocks are here without a gap, from index ``first`` on."""
        kept = self._kept.get(sequence)
        if kept is None:
            return 0
        index = first
        while index in kept.places:
            index += 1
        return index - first

    def bring_back(self, sequence: Sequence, first: int, blocks: list[int]) -> int:
        """Copy a sequence's blocks from index ``first`` on back, to ``blocks``; how many of its tokens had been computed.

        The others of its places are given up.
        """
        kept = self._kept.pop(sequence, None)
        if kept is None:
            return 0
        self._coming[sequence] = kept, [(kept.places[first + i], block) for i, block in enumerate(blocks)]
        return kept.num_computed

    def drop(self, sequence: Sequence) -> None:
        """Forget a sequence that has ended. Not while a step is planned."""
        kept = self._kept.pop(sequence, None)
        if kept is not None:
            self._free += kept.places.values()

    def take(self) -> tuple[Swaps, list[Sequence]]:
        """The step's copies, and the sequences that come back by them: the plan is complete."""
        swaps = Swaps(self._out, [pair for _, pairs in self._coming.values() for pair in pairs])
        came = list(self._coming)
        for kept, _ in self._coming.values():
            self._free += kept.places.values()
        self._out, self._coming = [], {}
        return swaps, came
