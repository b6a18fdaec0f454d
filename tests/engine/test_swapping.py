"""Blocks that were in the host's memory meanwhile change no answer, to the last bit of a log-probability."""

import pytest
import torch
from guesses import Asked, Oracle, answer, asked_in_all_ways, assert_same
from pydantic import ValidationError
from tiny_engine import BLOCK, PATHS, build, prompts, run, with_draft

from headrace_shared.protocol.sampling import BeamSpec
from headrace_worker.execute import host_blocks, kv_cache
from headrace_worker.execute.attention.backend import LayerCache
from headrace_worker.execute.attention.cache_kind import CacheFormat, CacheKind
from headrace_worker.execute.build import Parts
from headrace_worker.execute.host_blocks import HostBlocks
from headrace_worker.execute.kv_cache import BlockMove, CacheSize, KVCache, count_swap_blocks
from headrace_worker.models.errors import ModelLoadError
from headrace_worker.models.layers import AttentionLayer
from headrace_worker.settings import WorkerSettings

ASKED = prompts(3, 33, 18, 64, 47)
COUNT = 24


@pytest.mark.parametrize("path", ["portable", "lean"])
@pytest.mark.parametrize("name", ["llama", "mistral_window", "gemma2", "gpt_oss"])
def test_tokens_equal_generate_when_sequences_are_swapped_in_a_mixed_batch(name, path, tiny, generate):
    built = build(tiny(name), PATHS[path], swap_blocks=64)
    for share_prefixes in (True, False):
        mixed = run(built, ASKED, COUNT, budget=24, blocks=13, share_prefixes=share_prefixes)
        assert mixed.tokens == [generate(name, prompt, COUNT) for prompt in ASKED]
        assert mixed.mixed_steps > 0
        assert mixed.swapped_in > 0


def test_tokens_equal_generate_when_the_swap_space_is_too_small(tiny, generate):
    built = build(tiny("llama"), Parts(), swap_blocks=2)
    mixed = run(built, ASKED, COUNT, budget=24, blocks=14, share_prefixes=False)
    assert mixed.tokens == [generate("llama", prompt, COUNT) for prompt in ASKED]
    assert mixed.swapped_in == 2


@pytest.mark.parametrize("swap_blocks", [3, 100])
def test_every_way_of_drawing_with_choices_beams_guesses_and_shared_prefixes_gives_the_same(swap_blocks, tiny):
    built = build(tiny("llama"), Parts(), blocks=160, swap_blocks=swap_blocks)
    begun = prompts(40)[0]
    asked = [
        *asked_in_all_ways(max_tokens=40),
        *[Asked([*begun, i], {"temperature": 1.0, "seed": i}, {"max_tokens": 40}, n=3) for i in range(3, 6)],
        Asked([*begun, 9], {"beams": BeamSpec(3)}, {"max_tokens": 30}, n=3),
    ]
    plain = answer(built, asked)
    assert plain.preemptions == plain.swapped_in == 0
    for proposer in (None, Oracle(plain.answers, 3)):
        tight = answer(built, asked, proposer, blocks=18, guesses=8)
        assert tight.preemptions > 0
        assert tight.swapped_in > 0
        assert_same(tight.answers, plain.answers, exact=True)


@pytest.mark.parametrize("path", ["portable", "lean"])
def test_blocks_in_eight_bits_come_back_with_their_scales(path, tiny):
    built = build(tiny("llama"), PATHS[path], swap_blocks=64, kept=CacheFormat.INT8)
    expected = run(built, ASKED, COUNT).tokens
    mixed = run(built, ASKED, COUNT, budget=24, blocks=13, share_prefixes=False)
    assert mixed.tokens == expected
    assert mixed.swapped_in > 0


def test_a_draft_model_catches_up_with_a_sequence_that_was_swapped(tiny):
    built = with_draft(tiny("llama"), tiny("llama"), swap_blocks=100)
    asked = [Asked(prompts(20 + i)[0], {"temperature": 1.0, "seed": i}, {"max_tokens": 40}) for i in range(6)]
    plain = answer(built, asked)
    guessed = answer(built, asked, built.draft, blocks=14, budget=40)
    assert guessed.swapped_in > 0
    assert_same(guessed.answers, plain.answers, exact=True)
    assert guessed.guessed.accepted_tokens == guessed.guessed.draft_tokens > 50


def cache_of(blocks: int, places: int) -> KVCache:
    """Layers of different shapes, every number a different one."""
    shapes = [(blocks, 2, 3, 4), (blocks, 2, 4, 5), (blocks, 1, 3, 4), (blocks, 1, 4, 2)]
    tensors = [torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i, shape in enumerate(shapes)]
    layers = [LayerCache(*tensors[:2]), LayerCache(*tensors[2:])]
    return KVCache(layers, blocks, 4, HostBlocks(layers, places))


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_blocks_come_back_whole_wherever_they_are_put(at_once, monkeypatch):
    one = 4 * (24 + 40 + 12 + 8)
    monkeypatch.setattr(host_blocks, "_STAGED_BYTES", at_once * one)
    cache = cache_of(6, 5)
    before = [tensor.clone() for layer in cache.layers for tensor in (layer.key, layer.value)]
    cache.move(BlockMove.OUT, [(1, 4), (5, 0), (2, 3)])
    for layer in cache.layers:
        layer.key.zero_()
        layer.value.zero_()
    cache.move(BlockMove.BACK, [(3, 0), (4, 2), (0, 5)])
    after = [tensor for layer in cache.layers for tensor in (layer.key, layer.value)]
    for old, new in zip(before, after, strict=True):
        assert torch.equal(new[[0, 2, 5]], old[[2, 1, 5]])
        assert not new[[1, 3, 4]].any()


def test_a_cache_without_swap_space_says_so():
    cache = cache_of(2, 1)
    cache.host = None
    with pytest.raises(RuntimeError, match="no swap space"):
        cache.move(BlockMove.OUT, [(0, 0)])


def test_the_swap_space_takes_the_memory_it_is_given_and_no_more_than_there_is(monkeypatch):
    layers = [AttentionLayer(4, 2, 32, 32, 0.1)]
    one = BLOCK * 4 * 128
    monkeypatch.setattr(kv_cache, "_free_host_bytes", lambda: 10 * one)

    def count(swap_bytes: int, sharers: int = 1) -> int:
        kind = CacheKind(torch.float32, torch.device("cpu"))
        return count_swap_blocks(layers, CacheSize(swap_bytes=swap_bytes, sharers=sharers), kind)

    assert [count(0), count(one), count(10 * one - 1)] == [0, 1, 9]
    with pytest.raises(
        ModelLoadError, match=f"the swap space has {one - 1} bytes of memory, and one block needs {one}"
    ):
        count(one - 1)
    for too_much in ({"swap_bytes": 10 * one + 1}, {"swap_bytes": 6 * one, "sharers": 2}):
        with pytest.raises(ModelLoadError, match="this machine's memory are free"):
            count(**too_much)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"preemption_mode": "swap"}, "preemption_mode: swap needs swap_space"),
        ({"preemption_mode": "recompute", "swap_space": 1}, "swap_space: preemption_mode recompute has no use for it"),
        ({"swap_space": 1, "engine": "simulated"}, "swap_space: the simulated engine"),
        ({"swap_space": -1}, "swap_space"),
        ({"preemption_mode": "both"}, "preemption_mode"),
    ],
)
def test_settings_that_ask_for_what_cannot_be_are_refused_by_name(options, told):
    with pytest.raises(ValidationError, match=told):
        WorkerSettings(model="m", **options)
