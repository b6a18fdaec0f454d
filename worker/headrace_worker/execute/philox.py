"""Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
"""32-bit words, held in 64 bits so that products do not overflow."""

_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = np.array([[0x9E3779B9], [0xBB67AE85]], dtype=np.uint64)


def philox4x32(counter: Words, key: Words) -> Words:
    """Ten rounds over counters [4, n] and keys [2, n]; returns [4, n] random words."""
    c0, c1, c2, c3 = counter
    for _ in range(_ROUNDS):
        first, second = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0 = (second >> _HALF) ^ c1 ^ key[0]
        c1 = second & _LOW
        c2 = (first >> _HALF) ^ c3 ^ key[1]
        c3 = first & _LOW
        key = (key + _WEYL) & _LOW
    return np.stack([c0, c1, c2, c3])


class UniformSource:
    """One number per row and position, a pure function of (seed, choice, position)."""

    def __init__(self, seeds: Sequence[int], choices: Sequence[int]) -> None:
        """``seeds`` are 64 bit, signed or not."""
        whole = np.array([seed & 0xFFFF_FFFF_FFFF_FFFF for seed in seeds], dtype=np.uint64)
        self._key = np.stack([whole & _LOW, whole >> _HALF])
        self._choices = np.array(choices, dtype=np.uint64)

    def at(self, positions: Sequence[int]) -> npt.NDArray[np.float64]:
        """Uniform numbers in [0, 1) with 53 random bits, one per row."""
        zero = np.zeros_like(self._choices)
        words = philox4x32(np.stack([np.array(positions, dtype=np.uint64), self._choices, zero, zero]), self._key)
        high, low = words[0] >> np.uint64(5), words[1] >> np.uint64(6)
        numbers: npt.NDArray[np.float64] = (high * 67108864.0 + low) / 9007199254740992.0
        return numbers
