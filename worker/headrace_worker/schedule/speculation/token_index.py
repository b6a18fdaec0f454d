"""TokenIndex: where in a text its last tokens have been before."""

from collections.abc import Iterator
from collections.abc import Sequence as Seq

_MOST_TRIED = 32
"""Places that are looked at, the latest first: a run of equal tokens would have thousands."""

Gram = tuple[object, ...]


class TokenIndex:
    """Tokens, and every run of ``gram`` of them by its latest place; each has a link to the place before.

    Adding a token takes the same time however many there are.
    """

    def __init__(self, gram: int) -> None:
        self._gram = gram
        self.tokens: list[int] = []
        self._before: list[int] = []
        """For each token, where the run that ends with it has been before; -1: nowhere."""
        self._latest: dict[Gram, int] = {}
        self._begin = 0

    def __len__(self) -> int:
        return len(self.tokens)

    def begin(self) -> None:
        """What is added from now on does not continue what was."""
        self._begin = len(self.tokens)

    def add(self, token_ids: Seq[int], key: bytes = b"") -> None:
        """``key`` is part of every run: runs with another one are never found."""
        gram, tokens = self._gram, self.tokens
        for token_id in token_ids:
            tokens.append(token_id)
            place = len(tokens) - 1
            if len(tokens) - self._begin < gram:
                self._before.append(-1)
                continue
            run = (key, *tokens[place + 1 - gram :])
            self._before.append(self._latest.get(run, -1))
            self._latest[run] = place

    def places(self, ending: Seq[int], key: bytes = b"") -> Iterator[int]:
        """Where the last ``gram`` tokens of ``ending`` have been, the latest first; each place is that of their last one."""
        place = self._latest.get((key, *ending[-self._gram :]), -1)
        for _ in range(_MOST_TRIED):
            if place < 0:
                return
            yield place
            place = self._before[place]

    def reach(self, place: int, ending: Seq[int], most: int) -> int:
        """How many of the last tokens of ``ending``, ``most`` at most, are those up to that place."""
        tokens, size = self.tokens, 0
        limit = min(most, place + 1, len(ending))
        while size < limit and tokens[place - size] == ending[-1 - size]:
            size += 1
        return size
