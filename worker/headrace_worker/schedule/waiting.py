"""Sequences that wait for a place in the batch."""

from bisect import bisect_left, insort
from collections.abc import Iterator
from operator import attrgetter

from headrace_worker.schedule.request import Sequence

_order = attrgetter("order")


class SequenceQueue:
    """Sequences sorted by their ``order``: (background, priority, arrival, choice).

    The same container serves those that wait (the first is next) and those that run (the last is
    preempted first). It holds at most a few hundred, so a sorted list beats a heap: it can be
    walked in order, and any member removed.
    """

    def __init__(self) -> None:
        self._items: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._items)

    def push(self, sequence: Sequence) -> None:
        insort(self._items, sequence, key=_order)

    def remove(self, sequence: Sequence) -> None:
        """Take out a member. Raises ValueError when it is not one."""
        index = bisect_left(self._items, sequence.order, key=_order)
        if index == len(self._items) or self._items[index] is not sequence:
            raise ValueError(f"sequence {sequence.request_id}/{sequence.choice} is not in the queue")
        del self._items[index]

    def first(self) -> Sequence | None:
        return self._items[0] if self._items else None

    def last(self) -> Sequence | None:
        return self._items[-1] if self._items else None
