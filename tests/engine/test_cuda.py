"""The same promises on a CUDA device, where there is one."""

import pytest
import torch
from tiny_engine import build, prompts, run
from tiny_models import CONFIGS

from headrace_shared.protocol.sampling import SamplingSpec
from headrace_worker.execute.build import Parts

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


@pytest.mark.parametrize("name", CONFIGS)
def test_float32_tokens_equal_generate_alone_and_in_a_mixed_batch_with_preemption(name, tiny, generate):
    expected = [generate(name, prompt, COUNT) for prompt in ASKED]
    built = build(tiny(name), Parts(), device="cuda")
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
