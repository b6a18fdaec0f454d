"""Our Triton kernels: their arithmetic, in Triton's interpreter, and that they compile. Nothing here says that they are fast."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from attention_batches import batch_of, rows_of
from tiny_engine import prompts

from headrace_worker.execute.attention.backend import LayerCache
from headrace_worker.execute.attention.paged_sdpa import PagedSdpa
from headrace_worker.models.layers import AttentionLayer

pytest.importorskip("triton")
SUPPORT = Path(__file__).parents[1] / "support"
MIXED = ([1, 1, 1, 5, 60, 130], [1, 64, 201, 5, 60, 190])
LONG_DECODES = ([1, 1, 1], [1, 1100, 300])
CHUNKS = ([2, 33], [40, 33])
ONE_PROGRAM, MANY_PROGRAMS = 1, 1000
CASES = {
    "groups of three heads": (AttentionLayer(6, 2, 32, 32, 0.2), 16, MIXED, ONE_PROGRAM),
    "blocks of one token": (AttentionLayer(2, 2, 32, 32, 0.2), 1, ([1, 9], [30, 20]), ONE_PROGRAM),
    "blocks of five tokens": (AttentionLayer(4, 1, 16, 16, 0.2), 5, CHUNKS, ONE_PROGRAM),
    "blocks longer than a tile": (AttentionLayer(4, 2, 64, 64, 0.1), 256, ([1, 20], [300, 270]), ONE_PROGRAM),
    "a window shorter than a tile": (AttentionLayer(6, 2, 32, 32, 0.2, sliding_window=7), 16, MIXED, ONE_PROGRAM),
    "window, soft cap and sinks": (
        AttentionLayer(6, 2, 32, 32, 0.2, sliding_window=70, softcap=3.0, has_sinks=True), 16, MIXED, ONE_PROGRAM,
    ),
    "odd sizes": (AttentionLayer(3, 1, 24, 48, 0.3), 16, CHUNKS, ONE_PROGRAM),
    "more heads than a program's rows": (AttentionLayer(80, 1, 16, 16, 0.3), 16, CHUNKS, ONE_PROGRAM),
    "large heads": (AttentionLayer(2, 1, 256, 256, 0.06), 16, CHUNKS, ONE_PROGRAM),
    "pasts in parts": (AttentionLayer(6, 2, 32, 32, 0.2), 16, LONG_DECODES, MANY_PROGRAMS),
    "parts with window, soft cap and sinks": (
        AttentionLayer(6, 2, 32, 32, 0.2, sliding_window=400, softcap=3.0, has_sinks=True),
        16, LONG_DECODES, MANY_PROGRAMS,
    ),
}  # fmt: skip


def interpreted(what: str, given: object, folder: Path) -> object:
    """What the script makes of ``given``."""
    path = folder / "given"
    torch.save(given, path)
    subprocess.run([sys.executable, SUPPORT / "interpreted_triton.py", what, path], check=True, timeout=100)
    return torch.load(path, weights_only=False)


def made_up(name):
    layer, block_size, (counts, contexts), programs = CASES[name]
    torch.manual_seed(0)
    batch = batch_of(counts, contexts, block_size, len(counts) * (-(-max(contexts) // block_size)) + 3)
    shape = (int(batch.block_tables.max()) + 1, block_size, layer.num_kv_heads)
    cache = LayerCache(torch.randn(*shape, layer.head_dim), torch.randn(*shape, layer.value_dim))
    rows = rows_of(layer, batch.starts[-1], sinks=layer.has_sinks)
    return {"layer": layer, "cache": cache, "rows": rows, "batch": batch, "programs": programs}


def test_attention_equals_the_portable_back_end(tmp_path):
    outputs, cases = interpreted("cases", [made_up(name) for name in CASES], tmp_path)
    for name, got, case in zip(CASES, outputs, cases, strict=True):
        portable = made_up(name)
        expected = PagedSdpa().attend(portable["layer"], portable["cache"], portable["rows"], portable["batch"])
        torch.testing.assert_close(got, expected, rtol=2e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")
        assert torch.equal(case["cache"].key, portable["cache"].key), name
        assert torch.equal(case["cache"].value, portable["cache"].value), name


def test_an_engine_with_these_kernels_gives_the_tokens_of_generate(tmp_path, tiny, generate):
    names, asked, count = ("gemma2", "gpt_oss"), prompts(3, 33), 4
    given = {"folders": [tiny(name) for name in names], "prompts": asked, "count": count}
    tokens = interpreted("tokens", given, tmp_path)
    assert tokens == [[generate(name, prompt, count) for prompt in asked] for name in names]


@pytest.mark.slow
def test_the_kernels_compile_for_a_device_that_is_not_here(tmp_path):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, SUPPORT / "compiled_triton.py"]
    told = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=110).stdout
    shared = [int(number) for number in told.split()]
    assert len(shared) == 3
    # What every device of compute capability 8.0 and more has for one program.
    assert max(shared) <= 99 * 1024
