"""Guesses never change an answer: with real models, whatever is asked for, whoever guesses, and however wrong."""

from dataclasses import replace

import pytest
import torch
from guesses import WAYS, Asked, Oracle, Told, answer, asked_in_all_ways, assert_same
from tiny_engine import PATHS, build, prompts, with_draft
from tiny_models import VOCAB

from headrace_shared.protocol.sampling import BeamSpec, RepetitionSpec, ThinkingSpec
from headrace_worker.execute.build import Parts
from headrace_worker.models.errors import ModelLoadError
from headrace_worker.models.load import ModelSource, load_model
from headrace_worker.schedule.speculation.ngram import NgramProposer
from headrace_worker.schedule.speculation.suffix import SuffixProposer, SuffixRules

FAMILIES = ["llama", "llama_tied", "mistral_window", "gemma2", "gemma3", "qwen3", "gpt2", "gpt_oss", "granite"]
STOPS = [{}, {"min_tokens": 9, "stop_token_ids": tuple(range(3, 60))}, {"stop_token_ids": tuple(range(60, 75))}]


@pytest.mark.parametrize("wrong_in", [0, 1, 2, 5])
@pytest.mark.parametrize("path", ["lean", "modules", "portable"])
def test_every_way_of_drawing_gives_the_same_with_guesses(path, wrong_in, tiny):
    built = build(tiny("llama"), PATHS[path], blocks=160)
    for stopping in STOPS:
        asked = asked_in_all_ways(**stopping)
        plain = answer(built, asked, eos=frozenset({2}))
        guessed = answer(built, asked, Oracle(plain.answers, wrong_in), eos=frozenset({2}))
        assert_same(guessed.answers, plain.answers, exact=path != "portable")
        assert guessed.guessed.drafts > 10
        if wrong_in == 0:
            assert guessed.guessed.accepted_tokens == guessed.guessed.draft_tokens
        if wrong_in == 1:
            assert guessed.guessed.accepted_tokens == 0


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("path", ["lean", "portable"])
def test_every_family_gives_the_same_with_guesses_alone_and_together(name, path, tiny):
    built = build(tiny(name), PATHS[path], blocks=100)
    asked = [
        Asked(prompt, way, {"max_tokens": 40}) for prompt, way in zip(prompts(3, 17, 40, 33, 15), WAYS[:5], strict=True)
    ]
    exact = path != "portable" and name != "gpt_oss"
    plain = answer(built, asked)
    assert_same(answer(built, asked, Oracle(plain.answers, 3), guesses=6).answers, plain.answers, exact=exact)
    for number, one in enumerate(asked):
        alone = {("0", 0): plain.answers[str(number), 0]}
        assert_same(answer(built, [one], Oracle(alone, 4)).answers, alone, exact=exact)


@pytest.mark.parametrize("path", ["lean", "modules"])
def test_logits_of_guessed_rows_have_the_same_bits_as_those_of_single_steps(path, tiny):
    asked = [Asked(prompt, {"logprobs": 5}, {"max_tokens": 60}) for prompt in prompts(3, 33, 64)]
    built = build(tiny("qwen3"), PATHS[path], blocks=60)
    plain = answer(built, asked)
    guessed = answer(built, asked, Oracle(plain.answers, 4), guesses=7)
    assert_same(guessed.answers, plain.answers, exact=True)


def test_answers_are_the_same_when_blocks_are_short(tiny):
    built = build(tiny("llama"), Parts(), blocks=160)
    asked = asked_in_all_ways(max_tokens=40)
    plain = answer(built, asked)
    tight = answer(built, asked, Oracle(plain.answers, 3), blocks=16, guesses=8)
    assert tight.preemptions > 0
    assert_same(tight.answers, plain.answers, exact=True)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize(
    "proposer", [NgramProposer(1, 4), NgramProposer(3, 3), SuffixProposer(SuffixRules(min_token_prob=0.0))]
)
def test_real_proposers_change_nothing(proposer, adaptive, tiny):
    built = build(tiny("llama"), Parts(), blocks=160)
    few = {"allowed_token_ids": (40, 41, 42)}
    repeating = [
        Asked(prompt * 3, way | few, {"max_tokens": 60}) for prompt, way in zip(prompts(7, 11, 13), WAYS, strict=False)
    ]
    asked = [*repeating, *asked_in_all_ways()]
    plain = answer(built, asked)
    guessed = answer(built, asked, proposer, adaptive=adaptive)
    assert_same(guessed.answers, plain.answers, exact=True)
    assert guessed.guessed.drafts > 0
    # What was answered before helps those that keep it; again nothing changes.
    assert_same(answer(built, asked, proposer, adaptive=adaptive).answers, plain.answers, exact=True)


def test_beams_have_no_guesses_beside_others_that_do(tiny):
    built = build(tiny("llama"), Parts(), blocks=160)
    beams = Asked(prompts(20)[0], {"temperature": 0.0, "beams": BeamSpec(3)}, {"max_tokens": 12})
    asked = [beams, *asked_in_all_ways()]
    plain = answer(built, asked)
    assert_same(answer(built, asked, Oracle(plain.answers, 3)).answers, plain.answers, exact=True)


def test_a_thinking_budget_ends_at_the_same_token(tiny):
    built = build(tiny("llama"), Parts(), blocks=160)
    spec = ThinkingSpec(budget_tokens=7, end_ids=(20, 21, 22), ends=("<20><21><22>",), opened=True)
    asked = [
        Asked(
            prompts(9 + i)[0],
            {"temperature": 1.0, "seed": i, "thinking": spec},
            more=lambda made: made.limit_thinking(lambda token_id: f"<{token_id}>".encode()),
        )
        for i in range(3)
    ]
    plain = answer(built, asked)
    assert all(told.token_ids[7:10] == [20, 21, 22] for told in plain.answers.values())
    for wrong_in in (0, 2):
        assert_same(answer(built, asked, Oracle(plain.answers, wrong_in)).answers, plain.answers, exact=True)


class _Odd:
    """Forbids what the sum of the answer says, and fails at length 11 of some."""

    name = "odd"

    def __init__(self, fails: bool) -> None:
        self._fails = fails

    def apply(self, sequence, row) -> None:
        if self._fails and sequence.output_len == 11:
            raise RuntimeError("no more")
        row[sum(sequence.token_ids[sequence.prompt_len :]) % 2 :: 2] = -torch.inf


def test_own_processors_see_the_tokens_so_far_and_fail_where_they_would(tiny):
    built = build(tiny("llama"), Parts(), blocks=160)
    asked = [
        Asked(prompts(9 + i)[0], {"temperature": 1.0, "seed": i}, more=lambda made, i=i: made.customise([_Odd(i == 1)]))
        for i in range(3)
    ]
    plain = answer(built, asked)
    assert [len(told.token_ids) for told in plain.answers.values()] == [24, 11, 24]
    for wrong_in in (0, 2):
        assert_same(answer(built, asked, Oracle(plain.answers, wrong_in)).answers, plain.answers, exact=True)


def test_an_answer_that_goes_round_in_circles_ends_at_the_same_token(tiny):
    built = build(tiny("llama"), Parts(), blocks=160)
    circles = RepetitionSpec(max_pattern_tokens=8, min_count=3)
    asked = [
        Asked(prompts(6)[0], {"logit_bias": {40: 90.0 if i else 0.0}}, {"repetition": circles, "max_tokens": 90})
        for i in range(2)
    ]
    plain = answer(built, asked)
    assert plain.answers["1", 0].token_ids == [40, 40, 40]
    assert_same(answer(built, asked, Oracle({key: replace(told, token_ids=told.token_ids * 9) for key, told in plain.answers.items()})).answers, plain.answers, exact=True)  # fmt: skip


def test_a_model_that_drafts_for_itself_is_always_right(tiny):
    """Sampled answers as well: both draw with the same numbers."""
    built = with_draft(tiny("llama"), tiny("llama"))
    drawn = [way for way in WAYS if not {"repetition_penalty", "presence_penalty", "prompt_logprobs"} & way.keys()]
    asked = [Asked(prompts(5 + 9 * i)[0], way, {"max_tokens": 50}) for i, way in enumerate(drawn)]
    plain = answer(built, asked)
    guessed = answer(built, asked, built.draft, guesses=5)
    assert_same(guessed.answers, plain.answers, exact=True)
    assert guessed.guessed.accepted_tokens == guessed.guessed.draft_tokens > 200
    assert max(told.steps for told in guessed.answers.values()) < 20


def test_another_draft_model_changes_nothing_and_is_right_now_and_then(tiny):
    built = with_draft(tiny("llama"), tiny("qwen2"))
    asked = asked_in_all_ways(max_tokens=40)
    plain = answer(built, asked)
    always = answer(built, asked, built.draft)
    assert_same(always.answers, plain.answers, exact=True)
    assert always.guessed.draft_tokens > always.guessed.accepted_tokens > 0
    # What is hardly ever right does not pay.
    adaptive = answer(built, asked, built.draft, adaptive=True)
    assert_same(adaptive.answers, plain.answers, exact=True)
    assert adaptive.guessed.draft_tokens < always.guessed.draft_tokens / 4


def test_a_draft_model_catches_up_after_preemptions_prefix_hits_and_pauses(tiny):
    built = with_draft(tiny("llama"), tiny("llama"))
    shared = prompts(48)[0]
    asked = [Asked([*shared, i], {"temperature": 1.0, "seed": i}, {"max_tokens": 40}, n=2) for i in range(3, 8)]
    plain = answer(built, asked)
    guessed = answer(built, asked, built.draft, blocks=22, budget=40)
    assert guessed.preemptions > 0
    assert_same(guessed.answers, plain.answers, exact=True)
    assert guessed.guessed.accepted_tokens == guessed.guessed.draft_tokens > 50


def test_a_draft_model_of_another_vocabulary_is_refused(tiny, tmp_path):
    from constrained import save_model

    from headrace_worker.execute.draft_model import load_draft
    from headrace_worker.speculative_config import SpeculativeConfig

    target = load_model(ModelSource(str(tiny("llama"))))
    config = SpeculativeConfig(model=str(save_model(tmp_path, VOCAB + 1, 2)), num_speculative_tokens=2)
    with pytest.raises(ModelLoadError, match="vocabulary of 212 tokens, and the model one of 211"):
        load_draft(ModelSource(str(tiny("llama"))), config, target)


def test_sampled_answers_have_the_distribution_of_the_model(tiny):
    """Chi-square over the second and third token of many seeds, guesses always the most likely ones."""
    built = build(tiny("llama"), Parts(), blocks=64)
    prompt = prompts(12)[0]
    way = {"temperature": 0.9, "top_k": 6}
    greedy = answer(built, [Asked(prompt, {}, {"max_tokens": 3})]).answers["0", 0].token_ids
    count, seen, right = 1500, [], 0
    for start in range(0, count, 15):
        asked = [Asked(prompt, way | {"seed": 1000 + start + i}, {"max_tokens": 3}) for i in range(15)]
        known = {(str(i), 0): Told(greedy) for i in range(15)}
        run = answer(built, asked, Oracle(known), budget=256)
        seen += [tuple(told.token_ids) for told in run.answers.values()]
        right += run.guessed.accepted_tokens
    assert 0 < right < run.guessed.draft_tokens * 100
    chances = _three_token_chances(tiny("llama"), prompt, 0.9, 6)
    expected = {tokens: chance * count for tokens, chance in chances.items()}
    assert set(seen) <= expected.keys()
    often = [tokens for tokens, value in expected.items() if value >= 8]
    observed = [sum(each == tokens for each in seen) for tokens in often]
    values = [expected[tokens] for tokens in often]
    observed.append(count - sum(observed))
    values.append(count - sum(values))
    statistic = sum((o - e) ** 2 / e for o, e in zip(observed, values, strict=True))
    freedom = len(values) - 1
    assert freedom > 20
    # Wilson and Hilferty's approximation; five standard deviations.
    assert ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / (2 / (9 * freedom)) ** 0.5 < 5


def _three_token_chances(folder, prompt: list[int], temperature: float, top_k: int) -> dict[tuple[int, ...], float]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    chances: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(3):
        heads = list(chances)
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + list(head) for head in heads])).logits[:, -1].double() / temperature
        values, tokens = logits.topk(top_k)
        shares = values.softmax(1)
        chances = {
            (*head, int(token)): chances[head] * float(share)
            for head, row, row_shares in zip(heads, tokens, shares, strict=True)
            for token, share in zip(row, row_shares, strict=True)
        }
    return chances
