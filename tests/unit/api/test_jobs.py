"""What a request becomes for the worker. The limits that clients see are tested over HTTP."""

from hashlib import blake2b
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_worker import byte_tokenizer

from headrace_api.jobs import Ticket, chat_job, completion_job
from headrace_api.prompt.build import Prompt
from headrace_api.schemas.chat import ChatRequest
from headrace_api.schemas.completions import CompletionRequest
from headrace_shared.errors import InvalidRequestError
from headrace_shared.model_card import GenerationDefaults, ModelCard
from headrace_shared.protocol.codec import decode_job, encode_job, pack_ids
from headrace_shared.protocol.job import GenerateJob
from headrace_shared.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer(byte_tokenizer())
PROMPT = Prompt([1, 2, 3], "abc")


def card(**fields: Any) -> ModelCard:
    values: dict[str, Any] = {"name": "m", "max_model_len": 64, "vocab_size": 257, "tokenizer": "d"} | fields
    return ModelCard(**values)


def text_job(
    model: ModelCard | None = None, prompt: Prompt = PROMPT, ticket: Ticket | None = None, **fields: Any
) -> GenerateJob:
    body = CompletionRequest.model_validate({"prompt": "abc"} | fields)
    return completion_job(body, prompt, model or card(), TOKENIZER, ticket or Ticket("rid"))


def conversation_job(model: ModelCard | None = None, **fields: Any) -> GenerateJob:
    body = ChatRequest.model_validate({"messages": [{"role": "user", "content": "a"}]} | fields)
    return chat_job(body, PROMPT, model or card(), TOKENIZER, Ticket("rid"))


def test_values_come_from_the_request_then_the_model_then_the_book() -> None:
    model = card(defaults=GenerationDefaults(temperature=0.5, top_p=0.9, top_k=5, min_p=0.1, repetition_penalty=1.2))
    sampling = text_job(model, top_p=0.8).sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.8, 5)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.1, 1.2)
    fixed = text_job().sampling
    assert (fixed.temperature, fixed.top_p, fixed.top_k, fixed.min_p, fixed.repetition_penalty) == (
        1.0,
        1.0,
        0,
        0.0,
        1.0,
    )


def test_greedy_switches_every_filter_off() -> None:
    sampling = text_job(temperature=0, top_p=0.5, top_k=3, min_p=0.5).sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0, 1.0, 0, 0.0)


def test_almost_greedy_is_raised_to_what_can_be_computed() -> None:
    assert text_job(temperature=1e-9).sampling.temperature == 0.01


@pytest.mark.parametrize(("asked", "top_k"), [(-1, 0), (0, 0), (1, 1), (256, 256), (257, 0), (10**30, 0)])
def test_top_k_beyond_the_vocabulary_is_off(asked: int, top_k: int) -> None:
    assert text_job(top_k=asked).sampling.top_k == top_k


def test_a_seed_is_made_from_the_id_when_none_is_given() -> None:
    tickets = [Ticket(f"r{number}") for number in range(20)]
    seeds = [text_job(ticket=ticket).sampling.seed for ticket in tickets]
    assert len(set(seeds)) == 20
    assert [text_job(ticket=ticket, seed=-1).sampling.seed for ticket in tickets] == seeds
    assert text_job(seed=0).sampling.seed == 0
    assert text_job(seed=-(2**63)).sampling.seed == -(2**63)


@pytest.mark.parametrize(
    ("tokens", "lengths"), [(1, []), (63, []), (64, [64]), (200, [64, 128]), (5000, [1024, 2048, 4096])]
)
def test_a_prompt_is_known_by_its_longest_beginnings(tokens: int, lengths: list[int]) -> None:
    ids = list(range(tokens))
    digests = text_job(card(max_model_len=10_000), Prompt(ids, "")).header.affinity
    assert digests == tuple(blake2b(pack_ids(ids[:length]), digest_size=8).digest() for length in lengths)


def test_the_ticket_says_for_whom_and_how_urgent() -> None:
    header = text_job(ticket=Ticket("rid", tenant="ann", priority=3, detached=True)).header
    assert (header.tenant, header.priority, header.detached) == ("ann", 3, True)


def test_logit_bias_is_clamped() -> None:
    assert text_job(logit_bias={"1": 1000, "2": -1000.5, "3": 1.5}).sampling.logit_bias == {1: 100.0, 2: -100.0, 3: 1.5}


def test_bad_words_are_banned_at_the_beginning_and_after_a_blank() -> None:
    expected = {tuple(TOKENIZER.encode(text, add_special_tokens=False)) for text in ("ab", " ab")}
    assert set(text_job(bad_words=["ab", " ab"]).sampling.bad_words) == expected


def test_repeated_stops_are_told_once() -> None:
    stopping = text_job(stop=["a", "b", "a"], stop_token_ids=[3, 3, 4]).stopping
    assert (stopping.stop, stopping.stop_token_ids) == (("a", "b"), (3, 4))


def test_max_tokens_is_cut_to_the_room_left() -> None:
    assert text_job(max_tokens=1000).stopping.max_tokens == 61
    assert conversation_job().stopping.max_tokens == 61
    assert conversation_job(max_tokens=7).stopping.max_tokens == 7
    assert conversation_job(max_tokens=7, max_completion_tokens=9).stopping.max_tokens == 9


def test_echo_with_logprobs_scores_the_prompt_unless_told_otherwise() -> None:
    assert text_job(echo=True, logprobs=3).sampling.prompt_logprobs == 3
    assert text_job(echo=True, logprobs=3, prompt_logprobs=1).sampling.prompt_logprobs == 1
    assert text_job(echo=True).sampling.prompt_logprobs is None
    assert text_job(logprobs=3).sampling.prompt_logprobs is None


def test_the_cost_counts_every_choice() -> None:
    assert text_job(n=3, max_tokens=5).header.cost_tokens == (3 + 5) * 3


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(InvalidRequestError):
        text_job(prompt=Prompt([], ""))


@given(st.integers(1, 63), st.integers(0, 100))
def test_prompt_and_answer_always_fit_the_context(prompt_tokens: int, max_tokens: int) -> None:
    job = text_job(prompt=Prompt([1] * prompt_tokens), max_tokens=max_tokens, echo=True)
    assert prompt_tokens + job.stopping.max_tokens <= 64
    assert decode_job(encode_job(job)) == job


@given(st.integers(64, 200), st.integers(1, 100))
def test_a_prompt_that_fills_the_context_is_refused_with_its_length(prompt_tokens: int, max_tokens: int) -> None:
    with pytest.raises(InvalidRequestError, match=f"64 tokens.* has {prompt_tokens} tokens"):
        text_job(prompt=Prompt([1] * prompt_tokens), max_tokens=max_tokens)
