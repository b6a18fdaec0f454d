"""Keys and values in eight bits: what is kept of them, by every kernel, and what stays as it is."""

from dataclasses import replace

import pytest
import torch
from attention_batches import batch_of, rows_of
from guesses import Asked, Oracle, answer
from instruction_sets import SETS
from pydantic import ValidationError
from tiny_engine import PATHS, build, prompts, run

from headrace_shared.protocol.sampling import BeamSpec
from headrace_worker.execute.attention.backend import AttentionRows, LayerCache
from headrace_worker.execute.attention.cache_kind import CacheFormat, CacheKind, keep, restore
from headrace_worker.execute.attention.native import NativeAttention
from headrace_worker.execute.attention.paged_sdpa import PagedSdpa
from headrace_worker.execute.build import Parts, assemble, build_runner, cache_kind
from headrace_worker.execute.kv_cache import CacheSize, KVCache, block_bytes, count_blocks
from headrace_worker.execute.native.library import load_kernels
from headrace_worker.models.errors import ModelLoadError
from headrace_worker.models.layers import AttentionLayer
from headrace_worker.models.load import ModelSource, load_model
from headrace_worker.settings import WorkerSettings

PLAIN = AttentionLayer(num_heads=6, num_kv_heads=2, head_dim=32, value_dim=32, scale=0.2)
FORMATS = [CacheFormat.INT8, CacheFormat.FP8]
LARGER = {CacheFormat.INT8: 1, CacheFormat.FP8: 256}
"""Scales of the native back-end."""
ASKED = prompts(3, 33, 18, 64, 47)
COUNT = 24


@pytest.fixture(params=SETS)
def found(request):
    return load_kernels(request.param)


def caches(layer, form, block_size, num_blocks):
    """The same random past in both layouts."""
    key = keep(torch.randn(num_blocks, block_size, layer.num_kv_heads, layer.head_dim), form)
    value = keep(torch.randn(num_blocks, block_size, layer.num_kv_heads, layer.value_dim), form)
    native = LayerCache(
        key[0].permute(0, 2, 3, 1).contiguous(),
        value[0].permute(0, 2, 1, 3).contiguous(),
        form,
        key[1].permute(0, 2, 1).contiguous() * LARGER[form],
        value[1].permute(0, 2, 1).contiguous() * LARGER[form],
    )
    return native, LayerCache(key[0], value[0], form, key[1], value[1])


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("layer", "block_size", "sinks"),
    [
        (PLAIN, 16, False),
        (PLAIN, 48, True),
        (AttentionLayer(6, 2, 32, 32, 0.2, sliding_window=70, softcap=3.0), 16, True),
        (AttentionLayer(4, 4, 80, 80, 0.1), 32, False),
        (AttentionLayer(3, 1, 27, 48, 0.3), 16, False),
        (AttentionLayer(64, 1, 16, 16, 0.3), 16, False),
    ],
)
def test_the_kernels_keep_the_same_bytes_as_the_portable_back_end_and_attend_alike(
    found, form, layer, block_size, sinks
):
    torch.manual_seed(0)
    batch = batch_of([1, 1, 1, 5, 60, 130], [1, 64, 201, 5, 60, 190], block_size, 128)
    rows = rows_of(layer, batch.starts[-1], sinks=sinks)
    # Heads of every size, halves of a step, zeros and numbers that no scale could be made of.
    rows.key[:40] *= torch.logspace(-20, 1, 40)[:, None, None]
    rows.value[0], rows.value[1], rows.value[2] = 0, 1e-40, torch.arange(layer.value_dim) + 0.5
    rows.value[2, :, 0] = 127
    native, portable = caches(layer, form, block_size, 128)
    got = NativeAttention(found, 2).attend(layer, native, rows, batch)
    expected = PagedSdpa().attend(layer, portable, rows, batch)
    torch.testing.assert_close(got, expected, rtol=2e-4, atol=2e-5)
    assert torch.equal(native.key.permute(0, 3, 1, 2), portable.key)
    assert torch.equal(native.value.permute(0, 2, 1, 3), portable.value)
    for ours, due in ((native.key_scales, portable.key_scales), (native.value_scales, portable.value_scales)):
        assert torch.equal(ours.permute(0, 2, 1), due * LARGER[form])


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_row_has_the_same_bits_alone_in_a_batch_and_in_any_chunk(found, form, threads):
    torch.manual_seed(0)
    layer = replace(PLAIN, sliding_window=90)
    together = batch_of([1, 150, 20], [40, 150, 33], 16, 64)
    rows = rows_of(layer, 171)
    whole = NativeAttention(found, threads).attend(layer, caches(layer, form, 16, 64)[0], rows, together)[1:151]
    cache = caches(layer, form, 16, 64)[0]
    for begin, end in ((0, 1), (1, 64), (64, 97), (97, 149), (149, 150)):
        part = AttentionRows(*(each[1 + begin : 1 + end] for each in (rows.query, rows.key, rows.value)))
        one = batch_of([end - begin], [end], 16, 64)
        one.block_tables, one.slots = together.block_tables[1:2], together.slots[1 + begin : 1 + end]
        assert torch.equal(NativeAttention(found, 1).attend(layer, cache, part, one), whole[begin:end])


def test_a_kept_number_is_within_half_a_step_of_what_it_was():
    torch.manual_seed(0)
    heads = torch.randn(50, 3, 64) * torch.logspace(-6, 6, 50)[:, None, None]
    numbers, scales = keep(heads, CacheFormat.INT8)
    assert torch.equal(scales, heads.abs().amax(-1) / 127)
    error = (restore(numbers, scales, CacheFormat.INT8, torch.float32) - heads).abs()
    assert bool((error <= 0.5001 * scales[..., None]).all())
    assert int(numbers.abs().amax()) == 127
    numbers, scales = keep(heads, CacheFormat.FP8)
    error = (restore(numbers, scales, CacheFormat.FP8, torch.float32) - heads).abs()
    # Three bits behind the leading one, and steps of 2^-9 at the lower end.
    assert bool((error <= torch.maximum(heads.abs() / 16, scales[..., None] / 1024) * 1.0001).all())


def logits_of(built, asked, **options):
    """By the tokens before them."""
    seen = {}
    sampler = built.runner._sampler

    class Spy:
        def sample(self, logits, sequences):
            seen.update({tuple(s.token_ids): row.clone() for s, row in zip(sequences, logits, strict=True)})
            return sampler.sample(logits, sequences)

    built.runner._sampler = Spy()
    run(built, asked, COUNT, **options)
    return seen


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("path", ["modules", "lean"])
@pytest.mark.parametrize("name", ["qwen3", "gemma2"])
def test_the_logits_of_a_token_have_the_same_bits_alone_batched_preempted_and_prefix_cached(name, path, form, tiny):
    together = logits_of(build(tiny(name), PATHS[path], kept=form), ASKED, budget=24, blocks=14)
    again = build(tiny(name), PATHS[path], kept=form)
    alone: dict[tuple[int, ...], torch.Tensor] = {}
    for prompt in ASKED:
        alone |= logits_of(again, [prompt], budget=200)
    assert together.keys() == alone.keys()
    assert all(torch.equal(row, alone[tokens]) for tokens, row in together.items())


@pytest.mark.parametrize(
    ("path", "form"),
    [*((path, CacheFormat.INT8) for path in PATHS), ("portable", CacheFormat.FP8), ("lean", CacheFormat.FP8)],
)
def test_greedy_tokens_are_the_same_alone_batched_preempted_and_prefix_cached(path, form, tiny):
    built = build(tiny("llama"), PATHS[path], kept=form)
    assert {layer.format for layer in built.runner._attention.cache.layers} == {form}
    alone = [run(built, [prompt], COUNT).tokens[0] for prompt in ASKED]
    mixed = run(built, ASKED, COUNT, budget=24, blocks=14)
    assert mixed.tokens == alone
    assert mixed.preemptions > 0
    shared = [[*ASKED[3][:48], number] for number in range(3, 7)]
    expected = [run(built, [prompt], COUNT).tokens[0] for prompt in shared]
    found = run(built, shared, COUNT, budget=49)
    assert found.tokens == expected
    assert found.prefix_hit_tokens == 3 * 48


@pytest.mark.parametrize("form", FORMATS)
def test_native_and_portable_paths_give_the_same_tokens(form, tiny):
    tokens = [run(build(tiny("llama"), PATHS[path], kept=form), ASKED, COUNT).tokens for path in PATHS]
    assert all(each == tokens[0] for each in tokens[1:])


def test_choices_and_beams_copy_their_scales_and_guesses_change_nothing(tiny, monkeypatch):
    copied, copy = [], KVCache._copy
    monkeypatch.setattr(KVCache, "_copy", lambda cache, pairs: (copied.extend(pairs), copy(cache, pairs)))
    built = build(tiny("llama"), Parts(), blocks=160, kept=CacheFormat.INT8)
    asked = [
        Asked(ASKED[1], {"temperature": 1.0, "seed": 5, "logprobs": 2}, n=3),
        Asked(ASKED[2], {"beams": BeamSpec(3)}, {"max_tokens": 12}),
        Asked(ASKED[3], {"logprobs": 1}),
    ]
    plain = answer(built, asked)
    assert answer(built, asked, Oracle(plain.answers, 3)).answers == plain.answers
    assert copied
    for number, one in enumerate(asked):
        alone = answer(built, [one]).answers
        assert alone == {("0", choice): told for (key, choice), told in plain.answers.items() if key == str(number)}


def test_the_same_memory_has_room_for_over_three_times_as_many_blocks():
    layers = [AttentionLayer(9, 3, 64, 64, 0.1)] * 30
    cpu = torch.device("cpu")
    for form in FORMATS:
        kind = CacheKind(torch.float32, cpu, form)
        assert block_bytes(layers, 16, kind) == 30 * 16 * 3 * (2 * 64 + 2 * 4)
        plain, kept = (
            count_blocks(layers, CacheSize(memory_bytes=1 << 30), each)
            for each in (CacheKind(torch.float32, cpu), kind)
        )
        assert kept / plain == pytest.approx(512 / 136, rel=1e-3)


@pytest.mark.parametrize("path", ["portable", "lean"])
def test_the_cache_has_the_bytes_that_were_counted_and_a_draft_models_is_kept_alike(path, tiny):
    target, draft = load_model(ModelSource(str(tiny("llama")))), load_model(ModelSource(str(tiny("qwen2"))))
    size = CacheSize(memory_bytes=1 << 20, format=CacheFormat.INT8)
    one = block_bytes(target.layers + draft.layers, 16, cache_kind(target, size, PATHS[path]))
    built = assemble(target, size, PATHS[path], draft=draft)
    assert built.cache_kind.name == "int8"
    used = [built.runner._attention.cache, built.draft._attention.cache]
    assert {layer.format for cache in used for layer in cache.layers} == {CacheFormat.INT8}
    assert sum(cache.num_bytes for cache in used) == built.num_blocks * one <= 1 << 20


def test_a_device_that_cannot_do_it_is_named(tiny):
    loaded = replace(load_model(ModelSource(str(tiny("llama")))), device=torch.device("cuda"))
    with pytest.raises(ModelLoadError, match="kv_cache_dtype int8 cannot be done: it is for CPUs; on cuda, leave it"):
        cache_kind(loaded, CacheSize(format=CacheFormat.INT8), Parts())


def test_a_worker_keeps_its_cache_as_its_settings_say(tiny):
    options = {"model": str(tiny("llama")), "device": "cpu", "threads": 1, "kv_cache_memory": "1MiB"}
    plain, kept = (build_runner(WorkerSettings(**options, kv_cache_dtype=name)) for name in ("auto", "int8"))
    assert (plain.cache_kind.name, kept.cache_kind.name) == ("float32", "int8")
    # Heads of sixteen numbers: 64 bytes, or 16 and the scale's 4.
    assert kept.num_blocks == pytest.approx(plain.num_blocks * 64 / 20, rel=0.01)


@pytest.mark.parametrize(
    ("name", "format_"), [("auto", "PLAIN"), ("int8", "INT8"), ("fp8", "FP8"), ("fp8_e4m3", "FP8")]
)
def test_settings_name_the_formats_as_vllm_does(name, format_):
    asked = WorkerSettings(model="m", kv_cache_dtype=name)
    assert CacheFormat.named(asked.kv_cache_dtype) is CacheFormat[format_]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kv_cache_dtype": "fp8_e5m2"}, "'auto', 'int8', 'fp8' or 'fp8_e4m3'"),
        ({"kv_cache_dtype": "int8", "engine": "simulated"}, "simulated engine keeps no keys"),
    ],
)
def test_other_formats_are_refused_with_those_that_there_are(options, said):
    with pytest.raises(ValidationError, match=said):
        WorkerSettings(model="m", **options)
