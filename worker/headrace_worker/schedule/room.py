"""Room: what a worker could take in now."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Room:
    """What could be added now without anything having to wait for long.

    Background requests make room for others, so they do not count against ``slots`` and ``tokens``.
    """

    slots: int
    """Sequences."""
    tokens: int
    """K/V places that neither running nor waiting sequences need for the tokens they have."""
    background_slots: int
    """Of the sequences, how many may be background ones: no more than could be computed soon."""
    background_tokens: int
    """K/V places for those."""
