"""Which blocks already hold the beginning of a sequence."""

from array import array
from hashlib import blake2b

from headrace_worker.schedule.blocks import BlockPool
from headrace_worker.schedule.request import Sequence

_KEY_BYTES = 16


class PrefixCache:
    """Finds full blocks by what they hold.

    A block's key is a 128-bit BLAKE2b digest over its own tokens and the key of the block before
    it (the first: over the salt), so equal keys mean equal tokens from the very first one on.
    """

    def __init__(self, pool: BlockPool, block_size: int) -> None:
        self._pool = pool
        self._block_size = block_size

    def match(self, sequence: Sequence) -> list[int]:
        """The longest run of cached blocks that holds the sequence's first tokens.

        Leaves at least one token to compute, because only computed tokens have logits. The blocks
        are not held yet: share them before anything is taken from the pool.
        """
        usable = (sequence.num_tokens - 1) // self._block_size
        found: list[int] = []
        for index in range(usable):
            block = self._pool.find(self._key(sequence, index))
            if block is None:
                break
            found.append(block)
        return found

    def register(self, sequence: Sequence, before: int) -> None:
        """Make the blocks findable that became full since ``before`` tokens had been computed."""
        for index in range(before // self._block_size, sequence.num_computed // self._block_size):
            self._pool.label(sequence.block_table[index], self._key(sequence, index))

    def _key(self, sequence: Sequence, index: int) -> bytes:
        """The key of the sequence's full block ``index``; each is digested once in a sequence's life."""
        keys = sequence.block_keys
        size = self._block_size
        while len(keys) <= index:
            start = len(keys) * size
            parent = keys[-1] if keys else sequence.cache_salt
            tokens = array("q", sequence.token_ids[start : start + size]).tobytes()
            # The person string keeps a salt from passing for a parent key.
            role = b"child" if keys else b"root"
            digest = blake2b(tokens, digest_size=_KEY_BYTES, person=role)
            digest.update(parent)
            keys.append(digest.digest())
        return keys[index]
