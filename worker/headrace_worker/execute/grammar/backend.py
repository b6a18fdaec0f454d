"""What the grammar libraries have in common here."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headrace_shared.protocol.grammar import GrammarSpec

MOST_BLANKS = 32
"""Blanks between two JSON tokens: enough to indent by, and an end to a model that writes nothing else."""


class GrammarError(ValueError):
    """The grammar cannot be compiled; the message is for whoever wrote it."""


class RawMatcher(Protocol):
    """A library's own state of one sequence. It never sees a token after one that it refused."""

    def accept(self, token_id: int) -> bool:
        """False when the grammar does not allow the token here."""

    def possible(self, token_ids: list[int]) -> int:
        """How many of some tokens, the first ones, it would accept; it stays where it is."""

    def fill(self, bitmask: NDArray[np.int32], row: int) -> bool:
        """Set the row of a bitmask [rows, words]; False when the library gave up."""


class RawGrammar(Protocol):
    """A library's compiled grammar; matchers may be made in any thread."""

    def matcher(self) -> RawMatcher: ...


class Backend(Protocol):
    """One library."""

    def compile(self, spec: GrammarSpec) -> RawGrammar:
        """Raises GrammarError."""
