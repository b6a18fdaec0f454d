import pytest

from headrace_worker.schedule.blocks import BlockPool
from headrace_worker.schedule.prefix import PrefixCache


def test_blank_blocks_are_taken_before_cached_ones_and_of_those_the_longest_idle_first():
    pool = BlockPool(3)
    first, second, third = (pool.take() for _ in range(3))
    pool.label(first, b"1")
    pool.label(second, b"2")
    for block in (second, first, third):
        pool.release(block)
    assert [pool.take() for _ in range(3)] == [third, second, first]
    assert pool.find(b"1") is None
    with pytest.raises(KeyError):
        pool.take()


def test_a_cached_block_that_is_found_again_is_not_evicted():
    pool = BlockPool(2)
    kept, other = pool.take(), pool.take()
    pool.label(kept, b"k")
    pool.label(other, b"o")
    pool.release(kept)
    pool.release(other)
    pool.share(pool.find(b"k"))
    assert pool.take() == other
    assert (pool.users(kept), pool.free, pool.cached) == (1, 0, 0)


def test_a_shared_block_is_free_only_after_its_last_user():
    pool = BlockPool(1)
    block = pool.take()
    pool.share(block)
    pool.release(block)
    assert pool.free == 0
    pool.release(block)
    assert pool.free == 1


def test_of_two_equal_blocks_only_the_first_is_findable():
    pool = BlockPool(2)
    first, second = pool.take(), pool.take()
    pool.label(first, b"k")
    pool.label(second, b"k")
    pool.release(second)
    assert pool.find(b"k") == first
    assert pool.cached == 0


def filled(lab, tokens, salt=b""):
    sequence = lab.request("a", tokens).sequences[0]
    sequence.cache_salt = salt
    return sequence


def cache_of(lab, tokens, salt=b""):
    pool = BlockPool(8)
    cache = PrefixCache(pool, 2)
    sequence = filled(lab, tokens, salt)
    sequence.block_table = [pool.take() for _ in range(len(tokens) // 2)]
    sequence.num_computed = len(tokens)
    cache.register(sequence, 0)
    return cache, sequence.block_table


def test_a_match_ends_at_the_first_block_that_differs(lab):
    cache, table = cache_of(lab, [1, 2, 3, 4, 5, 6])
    assert cache.match(filled(lab, [1, 2, 3, 4, 9, 6, 7])) == table[:2]
    assert cache.match(filled(lab, [9, 2, 3, 4, 5, 6, 7])) == []


def test_equal_blocks_after_different_beginnings_are_different(lab):
    cache, _ = cache_of(lab, [1, 2, 3, 4])
    assert cache.match(filled(lab, [3, 4, 5])) == []


def test_sequences_of_different_salts_share_nothing(lab):
    cache, table = cache_of(lab, [1, 2, 3, 4], salt=b"mine")
    assert cache.match(filled(lab, [1, 2, 3, 4, 5], salt=b"mine")) == table
    assert cache.match(filled(lab, [1, 2, 3, 4, 5])) == []
    assert cache.match(filled(lab, [1, 2, 3, 4, 5], salt=b"yours")) == []


def test_only_full_computed_blocks_are_registered(lab):
    pool = BlockPool(4)
    cache = PrefixCache(pool, 2)
    sequence = filled(lab, [1, 2, 3, 4, 5])
    sequence.block_table = [pool.take() for _ in range(3)]
    sequence.num_computed = 3
    cache.register(sequence, 0)
    assert cache.match(filled(lab, [1, 2, 3, 4, 5])) == sequence.block_table[:1]
