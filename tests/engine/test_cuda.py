"""The same promises on a CUDA device, where there is one."""

import pytest
import torch
from tiny_engine import build, prompts, run
from tiny_models import CONFIGS, make_model

from headrace_shared.protocol.sampling import SamplingSpec
from headrace_worker.execute.attention.choose import ON_CUDA, choose
from headrace_worker.execute.build import Parts
from headrace_worker.models.layers import AttentionLayer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")

ASKED = prompts(3, 33, 18, 64, 47)
COUNT = 24
SAMPLINGS = {
    "temperature": SamplingSpec(temperature=0.8, seed=5),
    "truncated": SamplingSpec(temperature=1.2, top_k=20, top_p=0.9, min_p=0.02, seed=6),
    "penalties": SamplingSpec(
        temperature=0, presence_penalty=0.5, frequency_penalty=0.3, repetition_penalty=1.2, logit_bias={7: 1.0}
    ),
}


MODULES = {"flashinfer": "flashinfer", "flash_attn": "flash_attn", "triton_attn": "triton"}
EAGER, RECORDED = Parts(), Parts(recorded_rows=16)


@pytest.mark.parametrize(
    "parts", [EAGER, RECORDED, Parts(attention="torch_sdpa")], ids=["eager", "recorded", "portable"]
)
@pytest.mark.parametrize("name", CONFIGS)
def test_float32_tokens_equal_generate_alone_and_in_a_mixed_batch_with_preemption(name, parts, tiny, generate):
    expected = [generate(name, prompt, COUNT) for prompt in ASKED]
    built = build(tiny(name), parts, device="cuda")
    assert run(built, [ASKED[1]], COUNT).tokens[0] == expected[1]
    # 14 blocks hold 224 tokens of the 285 that the answers need in the end.
    mixed = run(built, ASKED, COUNT, budget=24, blocks=14)
    assert mixed.tokens == expected
    assert mixed.mixed_steps > 0
    assert mixed.preemptions > 0


def test_blocks_that_were_swapped_to_pinned_memory_change_no_token(tiny, generate):
    built = build(tiny("llama"), Parts(), device="cuda", swap_blocks=64)
    mixed = run(built, ASKED, COUNT, budget=24, blocks=13)
    assert mixed.tokens == [generate("llama", prompt, COUNT) for prompt in ASKED]
    assert mixed.swapped_in > 0


@pytest.mark.parametrize("kind", SAMPLINGS)
def test_seeded_tokens_are_those_of_the_cpu(kind, tiny):
    tokens = [
        run(build(tiny("llama"), Parts(), device=device), ASKED, COUNT, sampling=SAMPLINGS[kind]).tokens
        for device in ("cpu", "cuda")
    ]
    assert tokens[0] == tokens[1]


def test_prompt_logprobs_are_those_of_the_cpu(tiny):
    spec = SamplingSpec(temperature=0, prompt_logprobs=2)
    scores = [
        run(build(tiny("llama"), Parts(), device=device), prompts(40, 9), 2, budget=16, sampling=spec).prompt_logprobs
        for device in ("cpu", "cuda")
    ]
    for cpu, cuda in zip(*scores, strict=True):
        assert [entry.token_id for entry in cuda[1:]] == [entry.token_id for entry in cpu[1:]]
        assert [entry.logprob for entry in cuda[1:]] == pytest.approx([entry.logprob for entry in cpu[1:]], abs=1e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_gives_every_token(dtype, tiny):
    built = build(tiny("llama"), Parts(), device="cuda", dtype=dtype)
    assert built.model.dtype is getattr(torch, dtype)
    assert [len(tokens) for tokens in run(built, ASKED, COUNT).tokens] == [COUNT] * len(ASKED)


def test_triton_is_taken_where_nothing_else_does_float32_and_its_decodes_are_recorded(tiny):
    runner = build(tiny("llama"), RECORDED, device="cuda").runner
    assert runner._attention.backend.name == "triton"
    assert sorted(runner._network._recordings) == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("softcap", [None, 20.0])
@pytest.mark.parametrize("heads", [(8, 8), (12, 4), (8, 1)])
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("name", ON_CUDA)
def test_each_back_end_equals_the_portable_one(name, dim, heads, softcap, window):
    """What is compared, and how closely, is in ``trial``, without which none of them is taken."""
    pytest.importorskip(MODULES[name])
    layer = AttentionLayer(*heads, dim, dim, dim**-0.5, sliding_window=window, softcap=softcap)
    block_size = 256 if name == "flash_attn" else 16
    for dtype in (torch.float16, torch.bfloat16):
        choose(name, [layer], block_size, dtype, torch.device("cuda"))


@pytest.mark.parametrize("name", ON_CUDA)
def test_each_back_end_gives_the_portable_one_s_logprobs_as_steps_come_and_recorded(name, tmp_path, monkeypatch):
    pytest.importorskip(MODULES[name])
    monkeypatch.setitem(CONFIGS, "wide", {"model_type": "llama", "head_dim": 64})
    folder, block_size = make_model("wide", tmp_path), 256 if name == "flash_attn" else 16
    spec = SamplingSpec(temperature=0, logprobs=1)
    answers = [
        run(build(folder, parts, device="cuda", dtype="float16", block_size=block_size), ASKED, 4, sampling=spec)
        for parts in (Parts(attention="torch_sdpa"), Parts(attention=name), Parts(attention=name, recorded_rows=8))
    ]
    expected = [entry.logprob for entries in answers[0].logprobs for entry in entries]
    for answer in answers[1:]:
        assert answer.tokens == answers[0].tokens
        told = [entry.logprob for entries in answer.logprobs for entry in entries]
        assert told == pytest.approx(expected, abs=0.05)


def test_a_model_with_layers_in_the_host_s_memory_gives_the_same_tokens(tiny, generate):
    built = build(tiny("llama"), Parts(), device="cuda", offload_bytes=150_000)
    places = [next(layer.parameters()).device.type for layer in built.model.model.get_decoder().layers]
    assert sorted(set(places)) == ["cpu", "cuda"]
    assert run(built, ASKED, COUNT).tokens == [generate("llama", prompt, COUNT) for prompt in ASKED]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="this machine has one CUDA device")
@pytest.mark.parametrize("parts", [EAGER, RECORDED], ids=["eager", "recorded"])
def test_a_second_device_gives_the_same_tokens(parts, tiny, generate):
    built = build(tiny("llama"), parts, device="cuda:1")
    assert run(built, ASKED, COUNT).tokens == [generate("llama", prompt, COUNT) for prompt in ASKED]
