"""The compiled kernels against torch, for every instruction set that this machine has."""

import runpy
from ctypes import byref
from pathlib import Path

import pytest
import torch
from tiny_engine import build, prompts, run

from headrace_worker.execute.attention.backend import AttentionRows, LayerCache
from headrace_worker.execute.attention.batch import Batch
from headrace_worker.execute.attention.native import NativeAttention
from headrace_worker.execute.attention.paged_sdpa import PagedSdpa
from headrace_worker.execute.build import Parts
from headrace_worker.execute.linear import NativeLinear, pack
from headrace_worker.execute.native import library
from headrace_worker.execute.native.library import LinearCall, kernels, load_kernels
from headrace_worker.models.layers import AttentionLayer

ROOT = Path(__file__).parents[2]
BEST = kernels()
assert BEST is not None, "the kernels were not built: install the package where there is a C compiler"
SETS = {"avx512": ["avx512", "avx2", "base"], "avx2": ["avx2", "base"], "base": ["base"]}[BEST.isa]
PLAIN = AttentionLayer(num_heads=6, num_kv_heads=2, head_dim=32, value_dim=32, scale=0.2)


@pytest.fixture(params=SETS)
def found(request):
    return load_kernels(request.param)


def batch_of(counts, contexts, block_size, num_blocks):
    """Sequences on shuffled blocks; the last ``counts`` tokens of each are this step's."""
    starts = [0]
    for count in counts:
        starts.append(starts[-1] + count)
    longest = max(-(-context // block_size) for context in contexts)
    tables = torch.randperm(num_blocks)[: len(counts) * longest].view(len(counts), longest).int()
    slots = [
        int(tables[i, place // block_size]) * block_size + place % block_size
        for i, (count, context) in enumerate(zip(counts, contexts, strict=True))
        for place in range(context - count, context)
    ]
    decodes = next((i for i, count in enumerate(counts) if count != 1), len(counts))
    return Batch(
        num_decodes=decodes,
        starts=starts,
        context_lens=list(contexts),
        query_starts=torch.tensor(starts, dtype=torch.int32),
        contexts=torch.tensor(contexts, dtype=torch.int32),
        block_tables=tables,
        slots=torch.tensor(slots),
    )


def rows_of(layer, total, *, sinks=False):
    """As model code passes them: heads before rows in memory."""
    return AttentionRows(
        torch.randn(layer.num_heads, total, layer.head_dim).transpose(0, 1),
        torch.randn(layer.num_kv_heads, total, layer.head_dim).transpose(0, 1),
        torch.randn(total, layer.num_kv_heads, layer.value_dim),
        torch.randn(layer.num_heads) if sinks else None,
    )


def caches(layer, block_size, num_blocks):
    """The same random past in both layouts."""
    key = torch.randn(num_blocks, block_size, layer.num_kv_heads, layer.head_dim)
    value = torch.randn(num_blocks, block_size, layer.num_kv_heads, layer.value_dim)
    native = LayerCache(key.permute(0, 2, 3, 1).contiguous(), value.permute(0, 2, 1, 3).contiguous())
    return native, LayerCache(key, value)


@pytest.mark.parametrize(
    ("layer", "block_size", "sinks"),
    [
        (PLAIN, 16, False),
        (PLAIN, 48, True),
        (AttentionLayer(6, 2, 32, 32, 0.2, sliding_window=7), 16, False),
        (AttentionLayer(6, 2, 32, 32, 0.2, sliding_window=70, softcap=3.0), 16, True),
        (AttentionLayer(4, 4, 80, 80, 0.1), 32, False),
        (AttentionLayer(3, 1, 24, 48, 0.3), 16, False),
        (AttentionLayer(64, 1, 16, 16, 0.3), 16, False),
    ],
)
def test_attention_equals_the_portable_back_end(found, layer, block_size, sinks):
    torch.manual_seed(0)
    batch = batch_of([1, 1, 1, 5, 60, 130], [1, 64, 201, 5, 60, 190], block_size, 128)
    rows = rows_of(layer, batch.starts[-1], sinks=sinks)
    native, portable = caches(layer, block_size, 128)
    got = NativeAttention(found, 2).attend(layer, native, rows, batch)
    expected = PagedSdpa().attend(layer, portable, rows, batch)
    torch.testing.assert_close(got, expected, rtol=2e-4, atol=2e-5)
    torch.testing.assert_close(native.key.permute(0, 3, 1, 2), portable.key, rtol=0, atol=0)
    torch.testing.assert_close(native.value.permute(0, 2, 1, 3), portable.value, rtol=0, atol=0)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_row_has_the_same_bits_alone_in_a_batch_and_in_any_chunk(found, threads):
    torch.manual_seed(0)
    layer = AttentionLayer(6, 2, 32, 32, 0.2, sliding_window=90)
    context, together = 150, batch_of([1, 150, 20], [40, 150, 33], 16, 64)
    rows = rows_of(layer, 171)
    backend = NativeAttention(found, threads)
    whole = backend.attend(layer, caches(layer, 16, 64)[0], rows, together)[1:151]

    cache = caches(layer, 16, 64)[0]
    for begin, end in ((0, 1), (1, 64), (64, 97), (97, 149), (149, 150)):
        part = AttentionRows(*(each[1 + begin : 1 + end] for each in (rows.query, rows.key, rows.value)))
        one = batch_of([end - begin], [end], 16, 64)
        one.block_tables = together.block_tables[1:2]
        one.slots = together.slots[1 + begin : 1 + end]
        assert torch.equal(NativeAttention(found, 1).attend(layer, cache, part, one), whole[begin:end])
    assert end == context


def test_masked_places_may_hold_anything_finite(found):
    torch.manual_seed(0)
    batch = batch_of([1, 3], [18, 21], 16, 8)
    rows = rows_of(PLAIN, 4)
    results = []
    for filler in (0.0, 1e30):
        cache = LayerCache(torch.full((8, 2, 32, 16), filler), torch.full((8, 2, 16, 32), filler))
        generator = torch.Generator().manual_seed(5)
        for i, context in enumerate(batch.context_lens):
            for place in range(context):
                block = int(batch.block_tables[i, place // 16])
                cache.key[block, :, :, place % 16] = torch.randn(2, 32, generator=generator)
                cache.value[block, :, place % 16] = torch.randn(2, 32, generator=generator)
        results.append(NativeAttention(found, 1).attend(PLAIN, cache, rows, batch))
    assert torch.equal(*results)


@pytest.mark.parametrize(("outputs", "inputs"), [(16, 8), (50, 33), (17, 1), (1, 64), (96, 40), (211, 64)])
@pytest.mark.parametrize("biased", [False, True])
def test_a_linear_layer_equals_torch_and_a_row_has_the_same_bits_in_any_batch(found, outputs, inputs, biased):
    torch.manual_seed(0)
    weight, x = torch.randn(outputs, inputs), torch.randn(2, 110, inputs)
    bias = torch.randn(outputs) if biased else None
    layer = NativeLinear(weight, bias, found, 2)
    got = layer(x)
    torch.testing.assert_close(got, torch.nn.functional.linear(x, weight, bias), rtol=1e-4, atol=1e-4)
    for rows in (1, 2, 5, 13, 30):
        assert torch.equal(layer(x[1, 7 : 7 + rows]), got[1, 7 : 7 + rows])


@pytest.mark.parametrize(
    ("mode", "activation"),
    [(2, torch.nn.functional.silu), (3, lambda x: torch.nn.functional.gelu(x, approximate="tanh"))],
)
def test_gated_projections_apply_their_activation(found, mode, activation):
    torch.manual_seed(0)
    weight, bias, x = torch.randn(2 * 48, 40), torch.randn(2 * 48), torch.randn(19, 40) * 4
    packed, y = pack(weight, found, 1), torch.empty(19, 48)
    call = LinearCall(x.data_ptr(), packed.data_ptr(), bias.data_ptr(), y.data_ptr(), 19, 96, 40, mode)
    found.linear(byref(call), 1)
    gate, up = torch.nn.functional.linear(x, weight, bias).chunk(2, dim=1)
    torch.testing.assert_close(y, activation(gate) * up, rtol=1e-4, atol=1e-3)


def test_without_compiled_kernels_torch_does_the_work_and_the_log_says_so_once(tiny, generate, monkeypatch, caplog):
    monkeypatch.setattr(library, "_LIBRARY", Path("/nowhere/kernels.so"))
    kernels.cache_clear()
    try:
        built = build(tiny("llama"), Parts())
        build(tiny("llama"), Parts())
    finally:
        kernels.cache_clear()
    assert built.runner._attention.backend.name == "portable"
    assert [record.getMessage() for record in caplog.records].count(
        "native kernels are not available: torch operators do their work"
    ) == 1
    asked = prompts(20)
    assert run(built, asked, 6).tokens == [generate("llama", asked[0], 6)]


def test_the_build_goes_on_without_a_compiler_and_with_a_broken_one(tmp_path, monkeypatch):
    hook = runpy.run_path(str(ROOT / "hatch_build.py"))
    monkeypatch.setenv("PATH", str(tmp_path))
    target = tmp_path / "kernels.so"
    assert "no C compiler" in hook["build_kernels"](target)
    (tmp_path / "cc").write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    (tmp_path / "cc").chmod(0o755)
    assert hook["build_kernels"](target).endswith("cc failed: broken")
    assert not target.exists()
