"""Which attention back-end is taken, and what FlashInfer is told of a batch."""

import pytest
import torch
from attention_batches import batch_of
from tiny_engine import build

from headrace_worker.execute.attention.cache_kind import CacheKind
from headrace_worker.execute.attention.choose import choose
from headrace_worker.execute.attention.page_plan import PagePlan
from headrace_worker.execute.attention.paged_sdpa import PagedSdpa
from headrace_worker.execute.attention.trial import trial
from headrace_worker.execute.build import Parts
from headrace_worker.models.errors import ModelLoadError
from headrace_worker.models.layers import AttentionLayer
from headrace_worker.settings import WorkerSettings

CPU = torch.device("cpu")
FLOAT32 = CacheKind(torch.float32, CPU)
LAYERS = [
    AttentionLayer(6, 2, 32, 32, 0.2, sliding_window=70),
    AttentionLayer(6, 2, 32, 32, 0.2, softcap=3.0, has_sinks=True),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block_size", [1, 16, 256])
def test_a_back_end_that_is_right_passes_its_trial(dtype, block_size):
    assert trial(PagedSdpa(), LAYERS, block_size, CacheKind(dtype, CPU)) is None


def test_a_back_end_that_is_wrong_or_fails_does_not_pass():
    class Blind(PagedSdpa):
        def attend(self, layer, cache, rows, batch):
            return super().attend(layer, cache, rows, batch).zero_()

    class Forgetful(PagedSdpa):
        def attend(self, layer, cache, rows, batch):
            out = super().attend(layer, cache, rows, batch)
            cache.value[int(batch.block_tables[2, 0])] = 0
            return out

    class Broken(PagedSdpa):
        def attend(self, layer, cache, rows, batch):
            raise OSError("no compiler\nat all")

    class Picky(PagedSdpa):
        def supports(self, layer, block_size, kind):
            return layer.softcap is None

    assert "its answers are wrong by" in trial(Blind(), LAYERS, 16, FLOAT32)
    assert trial(Forgetful(), LAYERS, 16, FLOAT32) == "its answers are wrong by inf"
    assert trial(Broken(), LAYERS, 16, FLOAT32) == "it failed: no compiler"
    assert "cannot do this model's layers" in trial(Picky(), LAYERS, 16, FLOAT32)
    assert trial(Picky(), LAYERS[:1], 16, FLOAT32) is None


@pytest.mark.parametrize("name", ["flashinfer", "flash_attn", "triton_attn"])
def test_a_back_end_for_cuda_is_refused_on_a_cpu(name, tiny):
    with pytest.raises(ModelLoadError, match=f"attention_backend: {name} is for CUDA devices; leave it out on a cpu"):
        build(tiny("llama"), Parts(attention=name))


@pytest.mark.parametrize(("wanted", "taken"), [("auto", "native"), ("torch_sdpa", "portable")])
def test_a_cpu_has_its_own_and_the_portable_one(wanted, taken, tiny):
    assert build(tiny("llama"), Parts(attention=wanted)).runner._attention.backend.name == taken


def test_without_the_compiled_kernels_a_cpu_takes_the_portable_one():
    assert choose("auto", LAYERS, 16, FLOAT32).name == "portable"


@pytest.mark.parametrize("block_size", [1, 16, 48])
def test_a_plan_lists_the_pages_of_each_sequence_and_what_is_in_the_last_one(block_size):
    counts, contexts = [1, 1, 1, 5, 60], [1, 48, 50, 5, 96]
    batch = batch_of(counts, contexts, block_size, 500)
    flat = batch.block_tables.flatten()
    for sequences in (range(3), range(3, 5), range(5)):
        plan = PagePlan.of(batch, sequences, block_size)
        pages = flat[torch.from_numpy(plan.places).long()]
        for number, index in enumerate(sequences):
            begin, end = plan.indptr[number], plan.indptr[number + 1]
            used = -(-contexts[index] // block_size)
            assert pages[begin:end].tolist() == batch.block_tables[index, :used].tolist()
            assert (end - begin - 1) * block_size + plan.last_page_len[number] == contexts[index]
            assert 1 <= plan.last_page_len[number] <= block_size
            assert plan.query_indptr[number + 1] - plan.query_indptr[number] == counts[index]
        assert plan.indptr[0] == plan.query_indptr[0] == 0
        assert {each.dtype.name for each in (plan.indptr, plan.places, plan.last_page_len, plan.query_indptr)} == {
            "int32"
        }


def test_vllm_s_capitals_name_the_same_back_end():
    assert WorkerSettings(model="m", attention_backend="FLASH_ATTN").attention_backend == "flash_attn"
    with pytest.raises(ValueError, match="'flashinfer', 'flash_attn', 'triton_attn' or 'torch_sdpa'"):
        WorkerSettings(model="m", attention_backend="XFORMERS")
