"""Blocks for sequences: what they find, get, still need and give back."""

from collections.abc import Iterable

from headrace_worker.schedule.blocks import BlockPool
from headrace_worker.schedule.prefix import PrefixCache
from headrace_worker.schedule.request import Sequence
from headrace_worker.schedule.swap import Swaps, SwapSpace


class BlockAllocator:
    """The only writer of ``Sequence.block_table``."""

    def __init__(self, num_blocks: int, block_size: int, *, share_prefixes: bool, swap_places: int = 0) -> None:
        """``swap_places``: so many blocks can be kept in the host's memory for sequences that have to make room."""
        self._block_size = block_size
        self._pool = BlockPool(num_blocks)
        self._prefixes = PrefixCache(self._pool, block_size) if share_prefixes else None
        self._copies: list[tuple[int, int]] = []
        self.swap = SwapSpace(swap_places)
        self.prefix_queried_tokens = 0
        self.prefix_hit_tokens = 0

    @property
    def pool(self) -> BlockPool:
        return self._pool

    def admit(self, sequence: Sequence, running: Iterable[Sequence]) -> bool:
        """Give a sequence the cached blocks that hold its beginning, and behind them what was kept of it in the host's
        memory, and set ``num_computed`` to match.

        False, and nothing happens, when its tokens would not fit beside what the running sequences need.
        """
        cached = self._cached_prefix(sequence)
        idle = sum(self._pool.users(block) == 0 for block in cached)
        needed = self._blocks_for(sequence.num_tokens) - len(cached) + idle
        if needed + self._promised_blocks(running) > self._pool.free:
            return False
        for block in cached:
            self._pool.share(block)
        sequence.block_table = cached
        self._bring_back(sequence)
        if not sequence.admitted:
            sequence.admitted = True
            self.prefix_queried_tokens += sequence.num_tokens
            self.prefix_hit_tokens += sequence.num_computed
        return True

    def grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Give a sequence places for its first ``num_tokens``; False, and nothing happens, when blocks are short."""
        needed = self._blocks_for(num_tokens) - len(sequence.block_table)
        if needed > self._pool.free:
            return False
        for _ in range(needed):
            sequence.block_table.append(self._pool.take())
        return True

    def places(self, sequence: Sequence) -> int:
        """How many tokens its blocks hold."""
        return len(sequence.block_table) * self._block_size

    def fork(self, parent: Sequence, child: Sequence) -> bool:
        """Let a child share its parent's full blocks, and have a copy of the one that the parent still fills.

        False, and nothing happens, when there is no block for the copy. The parent's computed
        tokens must be the child's first ones, and the child without blocks.
        """
        full, partial = divmod(parent.num_computed, self._block_size)
        if partial and not self._pool.free:
            return False
        child.block_table = parent.block_table[:full]
        for block in child.block_table:
            self._pool.share(block)
        if partial:
            child.block_table.append(self._pool.take())
            self._copies.append((parent.block_table[full], child.block_table[full]))
        child.num_computed = parent.num_computed
        return True

    def preempt(self, sequence: Sequence) -> None:
        """Take all blocks back from a sequence that is to go on later.

        What nobody else has of them is kept in the host's memory, as far as there is room.
        """
        full = self._blocks_for(sequence.num_computed)
        own = {i: block for i, block in enumerate(sequence.block_table[:full]) if self._pool.users(block) == 1}
        self.swap.keep(sequence, own)
        self._give_back(sequence)

    def take_copies(self) -> list[tuple[int, int]]:
        """(from, to): blocks to be copied before anything is written, since the last call."""
        copies, self._copies = self._copies, []
        return copies

    def take_swaps(self) -> Swaps:
        """What is copied to and from the host's memory since the last call: behind the copies, and before anything is computed."""
        swaps, came = self.swap.take()
        for sequence in came:
            # Not when it was admitted: until the plan is complete it may be preempted again, and then nothing is copied.
            self.register(sequence, 0)
        return swaps

    def register(self, sequence: Sequence, before: int) -> None:
        """Let others find the blocks that became full since ``before`` tokens had been computed."""
        if self._prefixes is not None:
            self._prefixes.register(sequence, before)

    def release(self, sequence: Sequence) -> None:
        """Take all blocks back from a sequence that has ended, and forget what was kept of it."""
        self._give_back(sequence)
        self.swap.drop(sequence)

    def spare_tokens(self, running: Iterable[Sequence], waiting: Iterable[Sequence]) -> int:
        """Places that nobody needs for the tokens there are."""
        blocks = self._pool.free - self._promised_blocks(running)
        blocks -= sum(self._blocks_for(sequence.num_tokens) for sequence in waiting)
        return max(0, blocks) * self._block_size

    def spare_tokens_without_background(self, running: Iterable[Sequence], waiting: Iterable[Sequence]) -> int:
        """Places that only background sequences need. Blocks that others share count for each of them: rather fewer."""
        needed = sum(self._blocks_for(each.num_tokens) for each in waiting if not each.background)
        needed += sum(
            max(self._blocks_for(each.num_tokens) + 1, len(each.block_table)) for each in running if not each.background
        )
        return max(0, self._pool.total - needed) * self._block_size

    def _give_back(self, sequence: Sequence) -> None:
        # The last block first: the end of a prefix is evicted before its beginning.
        for block in reversed(sequence.block_table):
            self._pool.release(block)
        sequence.block_table = []
        sequence.num_computed = 0

    def _bring_back(self, sequence: Sequence) -> None:
        """Behind the blocks that it has found."""
        first = len(sequence.block_table)
        blocks = [self._pool.take() for _ in range(self.swap.found(sequence, first))]
        computed = self.swap.bring_back(sequence, first, blocks)
        sequence.block_table += blocks
        sequence.num_computed = min(self.places(sequence), max(computed, first * self._block_size))

    def _blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self._block_size)

    def _promised_blocks(self, running: Iterable[Sequence]) -> int:
        """Blocks that running sequences still need for their tokens, and one more each to grow into.

        Without that one, a newcomer would be preempted within a few steps of its prefill.
        """
        # A sequence with guesses may have more than that already.
        return sum(max(0, self._blocks_for(other.num_tokens) + 1 - len(other.block_table)) for other in running)

    def _cached_prefix(self, sequence: Sequence) -> list[int]:
        # A prompt that is to be scored needs the logits of all its tokens.
        if self._prefixes is None or sequence.prompt_scores is not None:
            return []
        return self._prefixes.match(sequence)
