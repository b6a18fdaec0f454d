"""The compiled kernels against torch, for every instruction set that this machine has."""

import runpy
import shutil
from ctypes import byref
from pathlib import Path

import gguf
import numpy
import pytest
import torch
from attention_batches import batch_of, rows_of
from instruction_sets import SETS
from tiny_engine import build, prompts, run

from headrace_worker.execute.attention.backend import AttentionRows, LayerCache
from headrace_worker.execute.attention.native import NativeAttention
from headrace_worker.execute.attention.paged_sdpa import PagedSdpa
from headrace_worker.execute.build import Parts
from headrace_worker.execute.linear import NativeLinear
from headrace_worker.execute.native import library
from headrace_worker.execute.native.library import kernels, load_kernels
from headrace_worker.execute.weights import Format, pack
from headrace_worker.models.errors import ModelLoadError
from headrace_worker.models.layers import AttentionLayer

ROOT = Path(__file__).parents[2]
PLAIN = AttentionLayer(num_heads=6, num_kv_heads=2, head_dim=32, value_dim=32, scale=0.2)


@pytest.fixture(params=SETS)
def found(request):
    return load_kernels(request.param)


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


def packed_linear(weight, bias, form, found):
    return NativeLinear(pack(weight, form, found, 2), bias, found, 2)


def quantized_rows(x):
    """What weights in blocks are multiplied with."""
    blocks = torch.nn.functional.pad(x, (0, -x.shape[-1] % 32)).unflatten(-1, (-1, 32))
    scale = blocks.abs().amax(-1, keepdim=True) / 32767
    return ((blocks / scale).round() * scale).flatten(-2)[..., : x.shape[-1]]


@pytest.mark.parametrize(("outputs", "inputs"), [(16, 8), (50, 33), (17, 1), (1, 64), (96, 40), (211, 64)])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("form", Format)
def test_a_linear_layer_equals_torch_and_a_row_has_the_same_bits_in_any_batch(found, form, outputs, inputs, biased):
    torch.manual_seed(0)
    weight, x = torch.randn(outputs, inputs), torch.randn(2, 110, inputs)
    bias = torch.randn(outputs) if biased else None
    layer = packed_linear(weight, bias, form, found)
    got = layer(x)
    kept = layer.rows(torch.arange(outputs))
    rows = quantized_rows(x) if form >= Format.INT8 else x
    # A number on the edge may be rounded either way: a difference of one step of 16 bits.
    close = 1e-3 if form >= Format.INT8 else 1e-4
    torch.testing.assert_close(got, torch.nn.functional.linear(rows, kept, bias), rtol=1e-4, atol=close)
    for count in (1, 2, 5, 13, 30):
        assert torch.equal(layer(x[1, 7 : 7 + count]), got[1, 7 : 7 + count])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_plain_weights_are_kept_to_the_bit(found, dtype):
    torch.manual_seed(0)
    weight = torch.cat([torch.randn(19, 40), torch.randn(3, 40) * 1e-6, torch.zeros(1, 40)]).to(dtype)
    layer = packed_linear(weight, None, Format[str(dtype).removeprefix("torch.").upper()], found)
    assert torch.equal(layer.rows(torch.arange(23)), weight.float())


@pytest.mark.parametrize(("form", "steps"), [(Format.INT8, 255), (Format.INT4, 15)])
def test_a_blocks_weights_are_as_exact_as_steps_over_their_range(found, form, steps):
    torch.manual_seed(0)
    weight = torch.randn(21, 72) * torch.logspace(-3, 1, 21)[:, None]
    weight[4], weight[5, 32:64] = 0, 0.25
    kept = packed_linear(weight, None, form, found).rows(torch.arange(21))
    for first in range(0, 72, 32):
        block, error = weight[:, first : first + 32], (kept - weight)[:, first : first + 32]
        step = (block.amax(1) - block.amin(1)) / steps
        rounded = 2**-11 * block.abs().amax(1)  # step and least weight are float16
        assert bool((error.square().mean(1).sqrt() <= 0.5 * step + rounded).all())


@pytest.mark.parametrize(("form", "steps", "most"), [(Format.INT8, 255, 0.8), (Format.INT4, 15, 0.85)])
def test_a_search_finds_closer_weights_than_steps_over_the_range(found, form, steps, most):
    torch.manual_seed(0)
    weight = torch.randn(48, 576)
    kept = packed_linear(weight, None, form, found).rows(torch.arange(48))
    blocks = weight.view(48, -1, 32)
    low, high = blocks.aminmax(dim=2, keepdim=True)
    step = (high - low) / steps
    plain = ((blocks - low) / step).round() * step + low - blocks
    assert float((kept - weight).square().mean()) < most * float(plain.square().mean())


@pytest.mark.parametrize("form", [Format.INT8, Format.INT4])
def test_the_largest_numbers_do_not_saturate(found, form):
    weight = torch.tensor([[127.0], [-127.0], [15.0]]).expand(3, 96).contiguous()
    # A block of one value has no range, and 4 bits need one.
    weight[:, ::32] = 0
    x = torch.tensor([[127.0], [-127.0], [1.0]]).expand(3, 96).contiguous()
    layer = packed_linear(weight, None, form, found)
    torch.testing.assert_close(layer(x), x @ layer.rows(torch.arange(3)).T, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("kind", "form", "error"),
    # A least weight is rounded to float16, which no multiple of 8 or 128 of a step needs.
    [("Q8_0", Format.INT8, 0.0), ("Q4_0", Format.INT4, 1e-3), ("Q4_1", Format.INT4, 1e-3)],
)
def test_the_weights_of_a_quantized_file_are_kept(found, kind, form, error):
    weight = numpy.random.default_rng(0).standard_normal((24, 96), dtype=numpy.float32)
    quantized = gguf.GGMLQuantizationType[kind]
    dense = torch.from_numpy(gguf.dequantize(gguf.quantize(weight, quantized), quantized))
    kept = packed_linear(dense, None, form, found).rows(torch.arange(24))
    assert float((kept - dense).abs().max()) <= error * float(dense.abs().max())


def test_a_weight_that_float16_cannot_hold_is_refused(found):
    with pytest.raises(ModelLoadError, match="too large for float16"):
        pack(torch.full((2, 4), 1e5), Format.FLOAT16, found, 1)


@pytest.mark.parametrize(
    ("mode", "activation"),
    [(2, torch.nn.functional.silu), (3, lambda x: torch.nn.functional.gelu(x, approximate="tanh"))],
)
def test_gated_projections_apply_their_activation(found, mode, activation):
    torch.manual_seed(0)
    weight, bias, x = torch.randn(2 * 48, 40), torch.randn(2 * 48), torch.randn(19, 40) * 4
    packed, y = pack(weight, Format.FLOAT32, found, 1), torch.empty(19, 48)
    call = packed.call(bias)
    call.x, call.y, call.rows, call.mode = x.data_ptr(), y.data_ptr(), 19, mode
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


def test_kernels_from_other_sources_are_not_used_and_the_log_says_how_to_build_them_again(
    tmp_path, monkeypatch, caplog
):
    changed = tmp_path / "native"
    shutil.copytree(Path(library.__file__).parent, changed)
    with (changed / "simd.h").open("a") as source:
        source.write("/* changed */\n")
    digest = library.sources_digest
    assert runpy.run_path(str(ROOT / "hatch_build.py"))["sources_digest"](changed) == digest(changed)
    monkeypatch.setattr(library, "sources_digest", lambda _: digest(changed))
    kernels.cache_clear()
    try:
        assert kernels() is None
    finally:
        kernels.cache_clear()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "out of date and not used" in record.getMessage()
    assert "make kernels" in record.build_again


def test_the_build_goes_on_without_a_compiler_and_with_a_broken_one(tmp_path, monkeypatch):
    hook = runpy.run_path(str(ROOT / "hatch_build.py"))
    monkeypatch.setenv("PATH", str(tmp_path))
    target = tmp_path / "kernels.so"
    assert "no C compiler" in hook["build_kernels"](target)
    (tmp_path / "cc").write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    (tmp_path / "cc").chmod(0o755)
    assert hook["build_kernels"](target).endswith("cc failed: broken")
    assert not target.exists()
