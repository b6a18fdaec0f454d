"""TokenMatcher: one sequence's place in its grammar, whichever library keeps it."""

import logging

import numpy as np
from numpy.typing import NDArray

from headrace_worker.execute.grammar.backend import RawGrammar
from headrace_worker.execute.grammar.vocabulary import Vocabulary

log = logging.getLogger(__name__)


class CompiledGrammar:
    """A grammar for one vocabulary; its matchers are independent of each other."""

    def __init__(self, raw: RawGrammar, vocabulary: Vocabulary, after: str | None) -> None:
        self._raw = raw
        self._vocabulary = vocabulary
        self._after = after.encode() if after else None

    def matcher(self) -> "TokenMatcher":
        return TokenMatcher(self._raw, self._vocabulary, self._after)


class TokenMatcher:
    """Before the marker everything is allowed; after the grammar's end, and when it is broken, only end-of-text."""

    def __init__(self, raw: RawGrammar, vocabulary: Vocabulary, after: bytes | None) -> None:
        self._matcher = raw.matcher()
        self._vocabulary = vocabulary
        self._after = after
        self._tail = b""
        """The end of the text before the marker, in which it may have begun."""
        self._ended = False
        self.broken = False
        """The grammar can neither end nor go on."""

    def accept(self, token_id: int) -> None:
        """Go on by one token of the output."""
        if self._after is not None:
            self._look_for(self._after, token_id)
        elif not self._ended:
            self._ended = token_id in self._vocabulary.eos_token_ids
            if not self._ended and not self._matcher.accept(token_id):
                self._break("a token is not in the grammar")

    def fill(self, bitmask: NDArray[np.int32], row: int) -> None:
        """Set the row of a bitmask [rows, words] to the tokens that may come next."""
        if self._after is not None:
            bitmask[row] = -1
            return
        if not self._ended and not self._matcher.fill(bitmask, row):
            self._break("a grammar became too complex")
        if not self._ended and not bitmask[row].any():
            self._break("the vocabulary has no token for what a grammar wants")
        if self._ended:
            self._only_end(bitmask[row])

    def _look_for(self, after: bytes, token_id: int) -> None:
        token = self._vocabulary.tokens[token_id] if token_id < len(self._vocabulary.tokens) else b""
        text = self._tail + token
        if after in text:
            self._after = None
        self._tail = text[-(len(after) - 1) :] if len(after) > 1 else b""

    def _break(self, reason: str) -> None:
        log.warning("a constrained answer is cut off", extra={"reason": reason})
        self._ended = self.broken = True

    def _only_end(self, words: NDArray[np.int32]) -> None:
        words[:] = 0
        for token_id in self._vocabulary.eos_token_ids:
            words.view(np.uint32)[token_id // 32] |= np.uint32(1 << token_id % 32)
