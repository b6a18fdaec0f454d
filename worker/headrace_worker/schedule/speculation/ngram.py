"""NgramProposer: what followed the last tokens when they came before in the same prompt or answer.

"Prompt lookup decoding" (Saxena, 2023): answers that quote, edit or summarise repeat much of their prompts.
"""

from weakref import WeakKeyDictionary

from headrace_worker.schedule.request import Sequence
from headrace_worker.schedule.speculation.proposer import Wish
from headrace_worker.schedule.speculation.token_index import TokenIndex


class NgramProposer:
    """A Proposer. Its index of a sequence grows with the sequence, and is not made again."""

    free = True

    def __init__(self, shortest: int, longest: int) -> None:
        """The last ``shortest`` tokens at least must have been there before; of several places the one where more of the last
        ``longest`` are the same, then the latest."""
        self._shortest, self._longest = shortest, longest
        self._known: WeakKeyDictionary[Sequence, TokenIndex] = WeakKeyDictionary()

    def propose(self, wishes: list[Wish]) -> list[list[int]]:
        return [self._propose(*wish) for wish in wishes]

    def ended(self, sequence: Sequence) -> None:
        self._known.pop(sequence, None)

    def _propose(self, sequence: Sequence, most: int) -> list[int]:
        index = self._known.get(sequence)
        if index is None:
            index = self._known[sequence] = TokenIndex(self._shortest)
        tokens = sequence.token_ids
        # All but the last token, so that the last run itself is not found.
        index.add(tokens[len(index) : -1])
        best, best_size = -1, 0
        ending = tokens[-self._longest :]
        for place in index.places(ending):
            size = index.reach(place, ending, self._longest)
            if size > best_size:
                best, best_size = place, size
            if size == self._longest:
                break
        return continued(tokens, best + 1, most) if best >= 0 else []


def continued(tokens: list[int], start: int, most: int) -> list[int]:
    """What comes from ``start`` on; at the end of the tokens again from there, as in a pattern that repeats itself."""
    found = tokens[start : start + most]
    period = len(found)
    while period and len(found) < most:
        found.append(found[-period])
    return found
