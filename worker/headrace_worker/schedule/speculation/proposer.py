"""Proposer: whatever guesses how sequences go on."""

from typing import NamedTuple, Protocol

from headrace_worker.schedule.request import Sequence


class Wish(NamedTuple):
    """So many tokens at most are wanted for a sequence, whose ``block_table`` has places for them."""

    sequence: Sequence
    most: int


class Proposer(Protocol):
    """Guesses are only ever compared with what is drawn: they change how fast an answer comes, never what it says."""

    free: bool
    """Proposing costs next to nothing, so that what is proposed can be weighed afterwards."""

    def propose(self, wishes: list[Wish]) -> list[list[int]]:
        """For each wish its guesses, from the sequence's next token on; none where it has no idea."""

    def ended(self, sequence: Sequence) -> None:
        """A sequence is over, with its last tokens in ``token_ids``."""
