"""SuffixProposer: how the last tokens went on most often, in the same sequence and in earlier answers.

After "SuffixDecoding: Extreme Speculative Decoding for Emerging AI Applications" (Oliaro et al., 2024): the longer
the run that has been seen before, the more is proposed; a token is proposed as long as it is likely enough to follow
by what followed elsewhere. Instead of suffix trees there is an index of short runs, whose places are compared backwards.
"""

from collections import Counter
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from headrace_worker.schedule.request import Sequence
from headrace_worker.schedule.speculation.proposer import Wish
from headrace_worker.schedule.speculation.token_index import TokenIndex

_GRAM = 3
"""Shorter runs say too little to be worth a guess."""
_END = -1
"""Stands between two answers."""
_MOST_STORED_TOKENS = 1 << 18


@dataclass(frozen=True, slots=True)
class SuffixRules:
    """vLLM's ``suffix_decoding_*``."""

    max_tree_depth: int = 24
    """Longest run that is compared."""
    max_cached_requests: int = 10_000
    """Earlier answers that are kept; 0: none."""
    max_spec_factor: float = 1.0
    """So many tokens are proposed for each one of the run that was found."""
    min_token_prob: float = 0.1
    """Share of the places that must agree on the guesses so far."""


class SuffixProposer:
    """A Proposer. Answers are kept by their ``cache_salt``, as blocks are: others' never show, not even by their speed."""

    free = True

    def __init__(self, rules: SuffixRules) -> None:
        self._rules = rules
        self._own: WeakKeyDictionary[Sequence, TokenIndex] = WeakKeyDictionary()
        self._stored = AnswerStore(rules.max_cached_requests)

    def propose(self, wishes: list[Wish]) -> list[list[int]]:
        return [self._propose(*wish) for wish in wishes]

    def ended(self, sequence: Sequence) -> None:
        if self._own.pop(sequence, None) is not None:
            self._stored.add(sequence)

    def _propose(self, sequence: Sequence, most: int) -> list[int]:
        own = self._own.get(sequence)
        if own is None:
            own = self._own[sequence] = TokenIndex(_GRAM)
        tokens = sequence.token_ids
        # All but the last token, so that the last run itself is not found.
        own.add(tokens[len(own) : -1])
        ending = tokens[-self._rules.max_tree_depth :]
        found = [_look(own, ending, b"")]
        own.add(tokens[-1:])
        found += [_look(index, ending, sequence.cache_salt) for index in self._stored.indexes()]
        best = max(found, key=lambda each: each.size)
        return self._follow(best, min(most, int(best.size * self._rules.max_spec_factor)))

    def _follow(self, found: "_Found", most: int) -> list[int]:
        """The likeliest tokens one after the other, by the places that are left."""
        guesses: list[int] = []
        places, total = found.places, len(found.places)
        tokens = found.index.tokens
        while len(guesses) < most and places:
            votes = Counter(tokens[place + 1] for place in places if place + 1 < len(tokens))
            votes.pop(_END, None)
            if not votes:
                break
            token_id, count = votes.most_common(1)[0]
            if count < total * self._rules.min_token_prob:
                break
            guesses.append(token_id)
            places = [place + 1 for place in places if place + 1 < len(tokens) and tokens[place + 1] == token_id]
        return guesses


class AnswerStore:
    """Tokens of earlier answers, bounded: when the newer half is full, the older one is let go."""

    def __init__(self, most_answers: int) -> None:
        self._most = most_answers
        self._newer, self._older = TokenIndex(_GRAM), TokenIndex(_GRAM)
        self._answers = 0

    def indexes(self) -> list[TokenIndex]:
        return [index for index in (self._newer, self._older) if len(index)]

    def add(self, sequence: Sequence) -> None:
        """Keep a sequence's output, with the end of its prompt to be found by."""
        if not self._most:
            return
        if 2 * self._answers >= self._most or 2 * len(self._newer) >= _MOST_STORED_TOKENS:
            self._newer, self._older, self._answers = TokenIndex(_GRAM), self._newer, 0
        self._newer.begin()
        self._newer.add(sequence.token_ids[max(0, sequence.prompt_len - _GRAM) :], sequence.cache_salt)
        self._newer.begin()
        self._newer.add([_END])
        self._newer.begin()
        self._answers += 1


@dataclass(frozen=True, slots=True)
class _Found:
    index: TokenIndex
    size: int
    """How long the run is."""
    places: list[int]
    """Where it ends, the latest first."""


def _look(index: TokenIndex, ending: list[int], key: bytes) -> _Found:
    """The longest run that the tokens end with, and where it has been."""
    reached = [(index.reach(place, ending, len(ending)), place) for place in index.places(ending, key)]
    longest = max((size for size, _ in reached), default=0)
    return _Found(index, longest, [place for size, place in reached if size == longest])
