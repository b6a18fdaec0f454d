"""Weights in fewer bits: what each precision promises of the tokens, on every path, and what refuses it."""

from pathlib import Path

import pytest
import torch
from tiny_engine import PATHS, build, prompts, run
from transformers import AutoModelForCausalLM

from headrace_worker.execute.build import Parts
from headrace_worker.execute.lean import LeanNetwork
from headrace_worker.execute.weights import Format
from headrace_worker.models.errors import ModelLoadError

ASKED = prompts(3, 33, 18, 64)
COUNT = 16
NATIVE = {name: PATHS[name] for name in ("modules", "lean")}


def rounded_generate(folder: Path, dtype: torch.dtype) -> list[list[int]]:
    """transformers' own answers, computed in float32 with weights that went through ``dtype``."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").float().eval()
    answers = []
    for prompt in ASKED:
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        out = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=COUNT, pad_token_id=0)
        answers.append(out[0, len(prompt) :].tolist())
    return answers


@pytest.mark.parametrize("path", NATIVE)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["llama_tied", "llama_bias_rope3", "phi3", "gemma2", "gpt2", "cohere"])
def test_half_precision_is_that_of_the_weights_alone(name, dtype, path, tiny):
    built = build(tiny(name), NATIVE[path], dtype=dtype)
    assert built.runner._attention.cache.layers[0].key.dtype is torch.float32
    assert run(built, ASKED, COUNT, budget=24, blocks=12).tokens == rounded_generate(tiny(name), getattr(torch, dtype))


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


@pytest.mark.parametrize("path", NATIVE)
@pytest.mark.parametrize("kept", ["float16", "bfloat16", "int8", "int4"])
def test_the_logits_of_a_token_have_the_same_bits_alone_and_in_any_batch(kept, path, tiny):
    how = {"quantization": kept} if kept.startswith("int") else {"dtype": kept}
    together = logits_of(build(tiny("qwen3"), NATIVE[path], **how), ASKED, budget=24, blocks=12)
    alone: dict[tuple[int, ...], torch.Tensor] = {}
    for prompt in ASKED:
        alone |= logits_of(build(tiny("qwen3"), NATIVE[path], **how), [prompt], budget=200)
    assert together.keys() == alone.keys()
    assert all(torch.equal(row, alone[tokens]) for tokens, row in together.items())


@pytest.mark.parametrize("path", NATIVE)
@pytest.mark.parametrize(("quantization", "most"), [("int8", 0.02), ("int4", 0.4)])
@pytest.mark.parametrize("name", ["llama_tied", "llama_odd_sizes", "gemma3", "gpt2"])
def test_quantized_logits_stay_close(name, quantization, most, path, tiny):
    """Tiny random models have flat distributions of no meaning, so the bounds are wider than a real model's."""
    exact = logits_of(build(tiny(name), Parts()), ASKED)
    built = build(tiny(name), NATIVE[path], quantization=quantization)
    model = AutoModelForCausalLM.from_pretrained(tiny(name)).eval()
    losses = []
    for tokens, row in logits_of(built, ASKED).items():
        if tokens in exact:
            due = exact[tokens].log_softmax(0)
        else:
            with torch.inference_mode():
                due = model(torch.tensor([tokens])).logits[0, -1].log_softmax(0)
        losses.append(float((due.exp() * (due - row.log_softmax(0))).sum()))
    assert 0 < sum(losses) / len(losses) < most


@pytest.mark.parametrize(
    ("quantization", "layers"), [("none", Format.FLOAT32), ("int8", Format.INT8), ("int4", Format.INT4)]
)
def test_a_quantized_model_keeps_its_weights_once(quantization, layers, tiny):
    network = build(tiny("llama_tied"), Parts(), quantization=quantization).runner._network
    assert isinstance(network, LeanNetwork)
    assert {layer.format for layer in network._layers} == {layers}
    assert network._head.packed.format is (Format.FLOAT32 if quantization == "none" else Format.INT8)
    assert network._decoder.embedding._head is network._head


@pytest.mark.parametrize(
    ("name", "parts", "reason"),
    [
        ("mixtral", Parts(), "not all of the model's weights are plain matrices"),
        ("llama", Parts(native=False), "the compiled kernels are missing"),
    ],
)
def test_what_cannot_be_quantized_is_refused_with_the_reason(name, parts, reason, tiny):
    with pytest.raises(ModelLoadError, match=f"quantization int8 cannot be done: {reason}"):
        build(tiny(name), parts, quantization="int8")


@pytest.mark.parametrize(("name", "parts"), [("mixtral", Parts()), ("llama", Parts(native=False))])
def test_where_the_kernels_cannot_help_half_precision_is_torchs_own(name, parts, tiny):
    built = build(tiny(name), parts, dtype="bfloat16")
    assert built.runner._attention.backend.name == "portable"
    assert built.runner._attention.cache.layers[0].key.dtype is torch.bfloat16
    assert [len(tokens) for tokens in run(built, prompts(20, 40), 8).tokens] == [8, 8]
