"""The engine inside a program gives transformers' own answers, and tells what is wrong with a call."""

import pytest
import torch
from pydantic import ValidationError

from headrace_worker import LLM, SamplingParams
from headrace_worker.engine.build import EngineSetupError
from headrace_worker.offline.options import OF_THE_SERVICE
from headrace_worker.settings import WorkerSettings

PROMPTS = ["the cat", "a bird sang in the tall green tree over there and", "dog", "THE MAT AND THE DOOR", "1, 2, 3: "]
GREEDY = SamplingParams(temperature=0, max_tokens=20)


def test_a_batch_of_mixed_prompts_equals_generate_in_the_order_of_the_prompts(llm, reference):
    outputs = llm.generate(PROMPTS, GREEDY, use_tqdm=False)
    assert [output.prompt for output in outputs] == PROMPTS
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        ids = reference.ids(prompt)
        (answer,) = output.outputs
        assert (output.prompt_token_ids, output.finished) == (ids, True)
        assert answer.token_ids == reference.generate(ids, 20)
        assert (
            answer.text
            == reference.tokenizer.decode([*ids, *answer.token_ids], skip_special_tokens=True)[len(prompt) :]
        )
        assert (answer.finish_reason, answer.stop_reason, answer.logprobs) == ("length", None, None)


@pytest.mark.parametrize("options", [{}, {"preemption_mode": "swap"}])
def test_a_batch_that_is_short_of_blocks_swaps_when_it_may(options, make_llm, reference):
    llm = make_llm(swap_space=0.01, num_gpu_blocks_override=5, enable_prefix_caching=False, **options)
    outputs = llm.generate(PROMPTS, SamplingParams(temperature=0, max_tokens=40), use_tqdm=False)
    assert [output.outputs[0].token_ids for output in outputs] == [
        reference.generate(reference.ids(prompt), 40) for prompt in PROMPTS
    ]
    stats = llm._engine.stats()
    assert stats.preemptions > 0
    assert stats.free_swap_blocks == stats.total_swap_blocks > 0


def test_prompts_may_be_token_ids_and_have_parameters_of_their_own(llm, reference):
    ids = reference.ids("the dog")
    params = [SamplingParams(temperature=0, max_tokens=count) for count in (3, 5, 7)]
    outputs = llm.generate([ids, {"prompt_token_ids": ids}, {"prompt": "the dog"}], params, use_tqdm=False)
    whole = reference.generate(ids, 7)
    assert [output.outputs[0].token_ids for output in outputs] == [whole[:3], whole[:5], whole]
    assert [output.prompt for output in outputs] == [None, None, "the dog"]
    assert llm.generate(ids, GREEDY, use_tqdm=False)[0].prompt_token_ids == ids


def test_logprobs_are_those_of_the_logits(llm, reference):
    params = SamplingParams(temperature=0, max_tokens=6, logprobs=3, prompt_logprobs=2)
    (output,) = llm.generate("the cat sat on", params, use_tqdm=False)
    (answer,) = output.outputs
    ids = output.prompt_token_ids
    rows = reference.logprobs([*ids, *answer.token_ids])
    assert output.prompt_logprobs is not None
    assert output.prompt_logprobs[0] is None
    for position, entry in enumerate(output.prompt_logprobs[1:]):
        assert ids[position + 1] in entry
        assert {token: each.rank for token, each in entry.items() if each.rank <= 2} == {
            token: rank for rank, token in enumerate(rows[position].topk(2).indices.tolist(), 1)
        }
        for token, each in entry.items():
            assert each.logprob == pytest.approx(float(rows[position, token]), abs=1e-4)
    for position, (token, entry) in enumerate(zip(answer.token_ids, answer.logprobs, strict=True), len(ids) - 1):
        assert entry[token].rank == 1
        assert entry[token].decoded_token == llm.tokenizer.token_text(token)
        assert list(entry) == rows[position].topk(3).indices.tolist()
    told = sum(entry[token].logprob for token, entry in zip(answer.token_ids, answer.logprobs, strict=True))
    assert answer.cumulative_logprob == pytest.approx(told)


def test_an_answer_ends_at_a_stop_string_and_the_rest_goes_on(llm):
    (whole,) = llm.generate("the cat", GREEDY, use_tqdm=False)
    text = whole.outputs[0].text
    stop = text[6:9]
    params = SamplingParams(temperature=0, max_tokens=20, stop=stop)
    (cut,), (same,) = (each.outputs for each in llm.generate(["the cat"] * 2, [params, GREEDY], use_tqdm=False))
    assert (cut.text, cut.finish_reason, cut.stop_reason) == (text[: text.index(stop)], "stop", stop)
    assert len(cut.token_ids) < len(same.token_ids)
    assert same.text == text


def test_choices_differ_and_equal_calls_give_equal_answers(make_llm):
    params = SamplingParams(n=3, max_tokens=12)

    def drawn(**options: int) -> list[list[int]]:
        llm = make_llm(**options)
        return [
            answer.token_ids
            for output in llm.generate(["the cat"] * 2, params, use_tqdm=False)
            for answer in output.outputs
        ]

    first = drawn()
    assert len({tuple(ids) for ids in first}) == 6
    assert drawn() == first
    assert drawn(seed=1) != first


def test_an_answer_as_long_as_the_context_ends_with_it(make_llm):
    llm = make_llm(max_model_len=24)
    (output,) = llm.generate("the cat", SamplingParams(temperature=0, max_tokens=None), use_tqdm=False)
    assert len(output.prompt_token_ids) + len(output.outputs[0].token_ids) == 24
    assert output.outputs[0].finish_reason == "length"


def test_a_chat_is_its_template_and_then_an_answer(llm, reference):
    chats = [[{"role": "cat", "content": "who sat"}], [{"role": "bird", "content": [{"type": "text", "text": "sang"}]}]]
    first, second = llm.chat(chats, GREEDY, use_tqdm=False)
    text = reference.tokenizer.apply_chat_template(chats[0], tokenize=False, add_generation_prompt=True)
    ids = reference.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert (first.prompt, first.prompt_token_ids) == (text, ids)
    assert first.outputs[0].token_ids == reference.generate(ids, 20)
    assert second.prompt == "<s>bird: sang\ndog: "
    (one,) = llm.chat(chats[0], GREEDY, use_tqdm=False, add_generation_prompt=False, chat_template_kwargs={"shout": 1})
    assert one.prompt == "<s>cat: who sat\n!!"
    with pytest.raises(ValueError, match="only parts of the type text"):
        llm.chat([{"role": "cat", "content": [{"type": "image_url"}]}])


def test_everything_that_is_wrong_is_told_before_anything_runs(llm, reference):
    long = [5] * llm.max_model_len
    params = [SamplingParams(logprobs=21), GREEDY, GREEDY, GREEDY]
    words = r"prompt 0: logprobs: at most 20.*prompt 1: has 256 tokens.*prompt 2: has no"
    with pytest.raises(ValueError, match=words) as caught:
        llm.generate(["the cat", long, [], "the dog"], params)
    assert "prompt 3" not in str(caught.value)
    for prompt in ([-1], [10**6], {"text": "x"}, 7.5):
        with pytest.raises((ValueError, TypeError)):
            llm.generate([prompt], GREEDY)
    with pytest.raises(ValueError, match="2 prompts and 1 sampling_params"):
        llm.generate(["a", "b"], [GREEDY])
    for params in (SamplingParams(stop_token_ids=[10**6]), SamplingParams(logit_bias={10**6: 1.0})):
        with pytest.raises(ValueError, match="the vocabulary has 211 tokens"):
            llm.generate("the cat", params)
    assert llm.generate("the cat", GREEDY, use_tqdm=False)[0].outputs[0].token_ids == reference.generate(
        reference.ids("the cat"), 20
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("structured_outputs", {}), ("best_of", 2), ("top_p", 0), ("temperature", -1), ("stop", [""]), ("max_tokens", -1)],
)
def test_parameters_that_are_not_known_or_out_of_range_are_named(name, value):
    with pytest.raises(ValidationError, match=name):
        SamplingParams(**{name: value})


def test_options_that_mean_nothing_here_are_named(folder):
    with pytest.raises(TypeError, match="metrics_port: is for a worker on a queue"):
        LLM(str(folder), metrics_port=1)
    with pytest.raises(TypeError, match="max_model_length: is not an option; did you mean max_model_len"):
        LLM(str(folder), max_model_length=1)
    with pytest.raises(EngineSetupError, match="block_size: Input should be greater"):
        LLM(str(folder), block_size=0)
    with pytest.raises(EngineSetupError):
        LLM(str(folder / "none"))
    assert WorkerSettings.model_fields.keys() >= OF_THE_SERVICE


def test_a_call_that_is_interrupted_leaves_nothing_behind(llm, reference):
    class Impatient:
        def __init__(self, **_: object) -> None: ...
        def __enter__(self) -> "Impatient":
            return self

        def __exit__(self, *_: object) -> None: ...
        def set_postfix_str(self, *_: object) -> None: ...
        def update(self, _: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        llm.generate(PROMPTS, GREEDY, use_tqdm=Impatient)
    assert not llm._engine.has_work()
    free = llm._engine.stats()
    assert free.free_blocks == free.total_blocks
    (output,) = llm.generate(PROMPTS[0], GREEDY, use_tqdm=False)
    assert output.outputs[0].token_ids == reference.generate(reference.ids(PROMPTS[0]), 20)


def test_a_progress_bar_counts_the_prompts(llm, capsys):
    llm.generate(PROMPTS, GREEDY)
    shown = capsys.readouterr().err
    assert "Processed prompts: 100%" in shown
    assert "5/5" in shown
    assert "output tokens/s" in shown
    llm.generate(PROMPTS, GREEDY, use_tqdm=False)
    assert capsys.readouterr().err == ""


def test_without_parameters_the_models_own_are_taken(make_llm):
    llm = make_llm(override_generation_config={"temperature": 0.0, "max_new_tokens": 5})
    assert llm.get_default_sampling_params() == SamplingParams(temperature=0, max_tokens=5)
    (output,) = llm.generate("the cat", use_tqdm=False)
    assert len(output.outputs[0].token_ids) == 5
    assert torch.is_inference_mode_enabled() is False
