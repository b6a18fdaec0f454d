"""The K/V cache's blocks: who uses them, and which idle ones still hold something worth finding."""

from collections import OrderedDict


class BlockPool:
    """Hands out block ids ``[0, num_blocks)``.

    A block is in exactly one of three states: used (one or more sequences hold it), cached (no one
    holds it, but it has a key and can be found again) or blank. Taking a block prefers a blank one
    and otherwise evicts the cached one that has been idle the longest.
    """

    def __init__(self, num_blocks: int) -> None:
        self._users = [0] * num_blocks
        self._keys: list[bytes | None] = [None] * num_blocks
        self._by_key: dict[bytes, int] = {}
        # Reversed, so that an untouched pool hands out 0, 1, 2, ...: neighbours in memory.
        self._blank = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()

    @property
    def total(self) -> int:
        return len(self._users)

    @property
    def free(self) -> int:
        """Blocks that ``take`` can hand out: blank and cached ones."""
        return len(self._blank) + len(self._cached)

    @property
    def cached(self) -> int:
        """Free blocks that can still be found by key."""
        return len(self._cached)

    def users(self, block: int) -> int:
        """How many sequences hold the block."""
        return self._users[block]

    def take(self) -> int:
        """A block for one new user. Raises KeyError when none is free."""
        if self._blank:
            block = self._blank.pop()
        else:
            block, _ = self._cached.popitem(last=False)
            self._forget(block)
        self._users[block] = 1
        return block

    def share(self, block: int) -> None:
        """One more user for a block that is used or cached."""
        if self._users[block] == 0:
            del self._cached[block]
        self._users[block] += 1

    def release(self, block: int) -> None:
        """One user fewer; without any, the block is free, and stays findable when it has a key."""
        self._users[block] -= 1
        if self._users[block] > 0:
            return
        if self._keys[block] is None:
            self._blank.append(block)
        else:
            self._cached[block] = None

    def label(self, block: int, key: bytes) -> None:
        """Make a used block findable; does nothing when another block already has that key."""
        if self._keys[block] is None and key not in self._by_key:
            self._keys[block] = key
            self._by_key[key] = block

    def find(self, key: bytes) -> int | None:
        """The block with that key, used or cached."""
        return self._by_key.get(key)

    def _forget(self, block: int) -> None:
        key = self._keys[block]
        if key is not None:
            del self._by_key[key]
            self._keys[block] = None
