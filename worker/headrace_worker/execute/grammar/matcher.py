"""TokenMatcher: one sequence's place in its grammar, whichever library keeps it."""

import logging
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from headrace_worker.execute.grammar.backend import RawGrammar
from headrace_worker.execute.grammar.prelude import Prelude, PreludePart, PreludeReader
from headrace_worker.execute.grammar.vocabulary import Vocabulary

log = logging.getLogger(__name__)


class CompiledGrammar:
    """A grammar for one vocabulary; its matchers are independent of each other."""

    def __init__(self, raw: RawGrammar, vocabulary: Vocabulary, prelude: Prelude | None) -> None:
        self._raw = raw
        self._vocabulary = vocabulary
        self._prelude = prelude
        if prelude is not None and prelude.starts:
            # Here, where nobody waits: the first look takes a while.
            list(vocabulary.leading_to(b"", prelude.starts))

    def matcher(self) -> "TokenMatcher":
        return TokenMatcher(self._raw, self._vocabulary, self._prelude)


class TokenMatcher:
    """In the prelude everything is allowed; after the grammar's end, and when it is broken, only end-of-text."""

    def __init__(self, raw: RawGrammar, vocabulary: Vocabulary, prelude: Prelude | None) -> None:
        self._raw = raw
        self._matcher = raw.matcher()
        self._vocabulary = vocabulary
        self._prelude = PreludeReader(prelude)
        self._starts = prelude.starts if prelude is not None else ()
        self._fits = True
        """While a prelude may be beginning: the answer so far is in the grammar as well."""
        self._ended = False
        self.broken = False
        """The grammar can neither end nor go on."""

    def accept(self, token_id: int) -> None:
        """Go on by one token of the output."""
        match self._prelude.part:
            case PreludePart.OPENING:
                self._open(token_id)
            case PreludePart.INSIDE:
                self._prelude.feed(self._text_of(token_id))
            case PreludePart.OVER:
                if not self._ended and not self._goes_on(token_id):
                    self._break("a token is not in the grammar")

    def possible(self, token_ids: list[int]) -> int:
        """How many of some tokens, the first ones, may come next; before the grammar begins it has no say."""
        if self._prelude.part is not PreludePart.OVER:
            return len(token_ids)
        if self._ended:
            return 0
        ends = self._vocabulary.eos_token_ids
        size = next((place for place, token_id in enumerate(token_ids) if token_id in ends), len(token_ids))
        return self._matcher.possible(token_ids[:size]) if size else 0

    def fill(self, bitmask: NDArray[np.int32], row: int) -> None:
        """Set the row of a bitmask [rows, words] to the tokens that may come next."""
        part = self._prelude.part
        if part is PreludePart.INSIDE:
            bitmask[row] = -1
            return
        if not self._fits:
            bitmask[row] = 0
        elif not self._ended and not self._matcher.fill(bitmask, row):
            self._break("a grammar became too complex")
        if part is PreludePart.OPENING and not self._ended:
            _allow(bitmask[row], self._vocabulary.leading_to(self._prelude.opening, self._starts))
        if not self._ended and not bitmask[row].any():
            self._break("the vocabulary has no token for what a grammar wants")
        if self._ended:
            self._only_end(bitmask[row])

    def _open(self, token_id: int) -> None:
        """A prelude that has begun goes before the grammar, which may allow the same text."""
        prelude = self._prelude
        self._fits = self._fits and self._goes_on(token_id)
        prelude.feed(self._text_of(token_id))
        if prelude.part is not PreludePart.OPENING:
            self._matcher, self._fits, self._ended = self._raw.matcher(), True, False
        elif self._ended or not prelude.may_open():
            prelude.grammar_begins()
            if not self._fits:
                self._fits = True
                self._break("a token is neither in the grammar nor before it")

    def _goes_on(self, token_id: int) -> bool:
        """Goes on by a token of the grammar; False when it is none."""
        if token_id in self._vocabulary.eos_token_ids:
            # Where the answer may be empty, its end is the grammar's as well.
            self._ended = True
            return True
        return self._matcher.accept(token_id)

    def _text_of(self, token_id: int) -> bytes:
        return self._vocabulary.tokens[token_id] if token_id < len(self._vocabulary.tokens) else b""

    def _break(self, reason: str) -> None:
        log.warning("a constrained answer is cut off", extra={"reason": reason})
        self._ended = self.broken = True

    def _only_end(self, words: NDArray[np.int32]) -> None:
        words[:] = 0
        _allow(words, self._vocabulary.eos_token_ids)


def _allow(words: NDArray[np.int32], token_ids: Iterable[int]) -> None:
    for token_id in token_ids:
        words.view(np.uint32)[token_id // 32] |= np.uint32(1 << token_id % 32)
