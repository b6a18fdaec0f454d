"""Memory for weights and cached keys and values."""

import re
import sys
from pathlib import Path

import pytest
import torch

from headrace_worker.execute.lasting_memory import lasting

MIB = 1 << 20


def mapping_of(address: int) -> str | None:
    """What the system says of the mapping that has this address; None: nobody has it."""
    blocks = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    for block in blocks[1:]:
        first, last = (int(end, 16) for end in block.split(" ", 1)[0].split("-"))
        if first <= address < last:
            return block
    return None


@pytest.mark.parametrize("size", [0, 1, 1000, MIB, 40 * MIB])
def test_it_is_zero_and_begins_at_a_cache_line(size):
    memory = lasting(size)
    assert (memory.dtype, memory.shape) == (torch.uint8, (size,))
    assert not memory.any()
    assert size == 0 or memory.data_ptr() % 64 == 0


def test_small_pieces_share_memory_and_do_not_overlap():
    pieces = [lasting(size) for size in (100, 1, 5000, 20 * MIB, 3)]
    for number, piece in enumerate(pieces, 1):
        piece.fill_(number)
    assert [piece.unique().tolist() for piece in pieces] == [[1], [2], [3], [4], [5]]


def test_what_nothing_can_hold_is_a_memory_error():
    with pytest.raises(MemoryError, match="bytes"):
        lasting(1 << 60)


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux tells it")
@pytest.mark.parametrize("size", [1000, 40 * MIB])
def test_huge_pages_are_asked_for(size):
    memory = lasting(size)
    told = mapping_of(memory.data_ptr())
    assert told is not None
    assert " hg" in next(line for line in told.splitlines() if line.startswith("VmFlags"))


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux tells it")
def test_it_is_given_back_with_the_last_tensor_that_has_a_part_of_it():
    memory = lasting(40 * MIB)
    address, part = memory.data_ptr(), memory[:10].view(2, 5)
    del memory
    assert mapping_of(address) is not None
    del part
    assert mapping_of(address) is None
