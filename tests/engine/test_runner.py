"""What a runner promises beside the right tokens."""

import pytest
import torch
from tiny_engine import PATHS, build, prompts, run
from transformers import AutoModelForCausalLM

from headrace_shared.protocol.sampling import SamplingSpec
from headrace_worker.execute import lean as lean_module
from headrace_worker.execute import runner as runner_module
from headrace_worker.execute.build import Parts, assemble
from headrace_worker.execute.inputs import build_inputs
from headrace_worker.execute.kv_cache import CacheSize
from headrace_worker.models.load import ModelSource, load_model
from headrace_worker.schedule.plan import Slice, StepGivenUpError
from headrace_worker.schedule.request import Sequence


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["llama", "granite", "gemma2"])
def test_prompt_logprobs_are_those_of_the_whole_prompt_however_it_is_chunked(name, path, tiny, monkeypatch):
    # Three rows of logits at once, so that the bound on memory is at work.
    monkeypatch.setattr(runner_module, "_SCORED_LOGITS", 3 * 211)
    asked = prompts(40, 9)
    built = build(tiny(name), PATHS[path])
    answers = run(built, asked, 2, budget=16, sampling=SamplingSpec(temperature=0, prompt_logprobs=2))
    model = AutoModelForCausalLM.from_pretrained(tiny(name), attn_implementation="eager").eval()
    for prompt, scores in zip(asked, answers.prompt_logprobs, strict=True):
        with torch.inference_mode():
            expected = model(torch.tensor([prompt])).logits[0].log_softmax(1)
        assert scores is not None
        assert scores[0] is None
        assert [entry.token_id for entry in scores[1:]] == prompt[1:]
        got = torch.tensor([entry.logprob for entry in scores[1:]])
        torch.testing.assert_close(got, expected[range(len(prompt) - 1), prompt[1:]], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("path", ["portable", "lean"])
@pytest.mark.parametrize("name", ["llama", "granite", "gemma2"])
def test_logprobs_are_those_of_transformers_alone_and_in_a_mixed_batch(name, path, tiny):
    asked = prompts(40, 9, 33)
    built = build(tiny(name), PATHS[path])
    answers = run(built, asked, 8, budget=24, sampling=SamplingSpec(seed=3, temperature=1.5, logprobs=4))
    model = AutoModelForCausalLM.from_pretrained(tiny(name), attn_implementation="eager").eval()
    for prompt, tokens, entries in zip(asked, answers.tokens, answers.logprobs, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(1)
        assert [entry.token_id for entry in entries] == tokens
        got = torch.tensor([entry.logprob for entry in entries])
        torch.testing.assert_close(got, expected[range(len(tokens)), tokens], rtol=1e-3, atol=1e-3)
        best = torch.tensor([[each.logprob for each in entry.top] for entry in entries])
        torch.testing.assert_close(best, expected.topk(4).values, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("path", ["modules", "lean"])
def test_the_logits_of_a_token_have_the_same_bits_alone_and_in_any_batch(path, tiny):
    seen: list[dict[tuple[int, ...], torch.Tensor]] = []
    for together in (True, False):
        built = build(tiny("qwen3"), PATHS[path])
        sampler, logits_of = built.runner._sampler, {}

        class Spy:
            def sample(self, logits, sequences, sampler=sampler, logits_of=logits_of):
                logits_of.update({tuple(s.token_ids): row.clone() for s, row in zip(sequences, logits, strict=True)})
                return sampler.sample(logits, sequences)

        built.runner._sampler = Spy()
        asked = prompts(3, 33, 18, 64)
        if together:
            run(built, asked, 12, budget=24, blocks=12)
        else:
            for prompt in asked:
                run(built, [prompt], 12, budget=200)
        seen.append(logits_of)
    assert seen[0].keys() == seen[1].keys()
    assert all(torch.equal(row, seen[1][tokens]) for tokens, row in seen[0].items())


@pytest.mark.parametrize("block_size", [1, 5, 32])
def test_block_sizes_that_the_kernels_cannot_do_fall_back_to_portable_attention(block_size, tiny, generate):
    built = build(tiny("llama"), Parts(), blocks=400 // block_size, block_size=block_size)
    expected = "native" if block_size % 16 == 0 else "portable"
    assert built.runner._attention.backend.name == expected
    asked = prompts(33, 18)
    assert run(built, asked, 12).tokens == [generate("llama", prompt, 12) for prompt in asked]


class OwnTensor(torch.Tensor):
    """As those that libraries for quantization make: it tells a plain type of numbers, and is none."""


@pytest.mark.parametrize("path", PATHS)
def test_layers_whose_weights_are_tensors_of_a_kind_of_their_own_are_left_as_they_are(path, tiny, generate):
    loaded = load_model(ModelSource(str(tiny("llama")), device="cpu"))
    for layer in loaded.model.get_decoder().layers:
        weight = layer.mlp.up_proj.weight.data.as_subclass(OwnTensor)
        layer.mlp.up_proj.weight = torch.nn.Parameter(weight, requires_grad=False)
    built = assemble(loaded, CacheSize(blocks=64), PATHS[path])
    assert type(built.runner._network).__name__ == "TransformersNetwork"
    assert type(loaded.model.get_decoder().layers[0].mlp.up_proj.weight) is OwnTensor
    asked = prompts(33, 18)
    assert run(built, asked, 8).tokens == [generate("llama", prompt, 8) for prompt in asked]


def sequence(tokens: list[int], blocks: list[int]) -> Sequence:
    from headrace_shared.protocol.sampling import StoppingSpec

    return Sequence(
        "r", 0, (0, 0, 0), tokens, len(tokens), SamplingSpec(), StoppingSpec(), frozenset(), block_table=blocks
    )


def test_a_plan_becomes_packed_rows_with_their_places():
    decode = Slice(sequence(list(range(100, 106)), [7, 2]), 5, 1, samples=True)
    chunk = Slice(sequence(list(range(50, 62)), [0, 9, 4]), 3, 6, samples=False)
    step = build_inputs([decode, chunk], 4, torch.device("cpu"))
    assert step.input_ids.tolist() == [105, 53, 54, 55, 56, 57, 58]
    assert step.positions.tolist() == [5, 3, 4, 5, 6, 7, 8]
    assert step.batch.slots.tolist() == [2 * 4 + 1, 3, 36, 37, 38, 39, 16]
    assert step.batch.num_decodes == 1
    assert step.batch.starts == [0, 1, 7]
    assert step.batch.context_lens == [6, 9]
    assert step.batch.block_tables.tolist() == [[7, 2, 0], [0, 9, 4]]
    assert step.sample_rows == [0]


@pytest.mark.parametrize("path", PATHS)
def test_a_step_that_is_given_up_in_any_layer_leaves_the_tokens_as_they_would_have_been(path, tiny, monkeypatch):
    monkeypatch.setattr(lean_module, "_ROWS_BETWEEN_LOOKS", 1)
    asked = prompts(40, 9)
    expected = run(build(tiny("llama"), PATHS[path]), asked, 6, budget=24).tokens
    built = build(tiny("llama"), PATHS[path])
    execute = built.runner.execute

    def impatient(plan):
        """Gives the step up before its first layer, then before its second one, and so on."""
        for layers in range(len(built.model.layers)):
            left = iter([False] * layers + [True])
            plan.unwanted = lambda left=left: next(left)
            with pytest.raises(StepGivenUpError):
                execute(plan)
        plan.unwanted = lambda: False
        return execute(plan)

    monkeypatch.setattr(built.runner, "execute", impatient)
    assert run(built, asked, 6, budget=24).tokens == expected
