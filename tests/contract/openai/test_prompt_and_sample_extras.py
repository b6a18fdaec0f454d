"""best_of, truncate_prompt_tokens and service_tier, through the SDK."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from live_api import Api, running_api
from scripted_worker import BOS, ScriptedWorker, ids_of, running_worker

from headrace_shared.protocol.codec import unpack_ids
from headrace_shared.protocol.event import Delta, Event, Finished, FinishReason, Started, TokenLogprob, TopLogprob
from headrace_shared.protocol.sampling import BeamSpec, ProcessorCall, RepetitionSpec
from headrace_shared.queue.claims import Claim

LIKELIHOODS = {"A": -3.0, "B": -1.0, "C": -2.0, "D": -9.0}


async def _lettered(_worker: ScriptedWorker, claim: Claim) -> AsyncGenerator[list[Event], None]:
    """Choice 0 says A, choice 1 says B ... with scores that are known."""
    assert claim.job.sampling.logprobs is not None
    yield [Started("scripted")]
    for choice, letter in zip(range(claim.job.n), LIKELIHOODS, strict=False):
        [token_id] = ids_of(letter)
        entry = TokenLogprob(token_id, LIKELIHOODS[letter], 1)
        yield [Delta(choice, [token_id], letter, [entry], FinishReason.STOP)]
    yield [Finished(3, claim.job.n)]


@pytest.mark.parametrize("logprobs", [None, 0])
async def test_the_most_likely_samples_are_shown_best_first(valkey_url: str, logprobs: int | None) -> None:
    async with running_worker(valkey_url, script=_lettered) as worker, running_api(valkey_url) as api:
        answer = await api.sdk.completions.create(model="tiny", prompt="ab", n=2, best_of=4, logprobs=logprobs)
        assert [(choice.index, choice.text) for choice in answer.choices] == [(0, "B"), (1, "C")]
        shown = [choice.logprobs and choice.logprobs.token_logprobs for choice in answer.choices]
        assert shown == ([None, None] if logprobs is None else [[-1.0], [-2.0]])
        assert worker.jobs[0].n == 4
        assert worker.jobs[0].header.cost_tokens == (3 + 16) * 4


async def test_the_best_of_chat_answers_is_shown(valkey_url: str) -> None:
    async with running_worker(valkey_url, script=_lettered), running_api(valkey_url) as api:
        messages: Any = [{"role": "user", "content": "go"}]
        answer = await api.sdk.chat.completions.create(model="tiny", messages=messages, extra_body={"best_of": 4})
        assert [choice.message.content for choice in answer.choices] == ["B"]
        assert answer.choices[0].logprobs is None


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"truncate_prompt_tokens": 3}, "def"),
        ({"truncate_prompt_tokens": 3, "truncation_side": "right"}, f"{BOS}ab"),
        ({"truncate_prompt_tokens": 7}, f"{BOS}abcdef"),
        ({"truncate_prompt_tokens": -1}, f"{BOS}abcdef"),
    ],
)
async def test_a_prompt_is_cut_to_so_many_tokens(
    api: Api, worker: ScriptedWorker, fields: dict[str, object], kept: str
) -> None:
    answer = await api.sdk.completions.create(model="tiny", prompt="abcdef", echo=True, extra_body=fields)
    assert worker.text_of(unpack_ids(worker.jobs[0].prompt)) == kept
    assert answer.choices[0].text.endswith(kept.removeprefix(BOS) + "Hello!")


async def test_minus_one_keeps_what_leaves_room_for_an_answer(api: Api, worker: ScriptedWorker) -> None:
    await api.sdk.completions.create(model="tiny", prompt="x" * 900, extra_body={"truncate_prompt_tokens": -1})
    assert len(unpack_ids(worker.jobs[0].prompt)) == 511
    assert worker.jobs[0].stopping.max_tokens == 1


@pytest.mark.parametrize(
    ("asked", "told", "priority"),
    [("auto", "default", 0), ("default", "default", 0), ("flex", "flex", 10), ("priority", "priority", -10)],
)
async def test_a_service_tier_stands_for_a_priority_and_is_told(
    api: Api, worker: ScriptedWorker, asked: Any, told: str, priority: int
) -> None:
    messages: Any = [{"role": "user", "content": "go"}]
    answer = await api.sdk.chat.completions.create(model="tiny", messages=messages, service_tier=asked)
    assert answer.service_tier == told
    assert worker.jobs[0].header.priority == priority


async def test_a_priority_beats_the_tier(api: Api, worker: ScriptedWorker) -> None:
    fields = {"service_tier": "flex", "priority": -3}
    stream = await api.sdk.completions.create(model="tiny", prompt="ab", stream=True, extra_body=fields)
    assert {chunk.model_extra["service_tier"] async for chunk in stream if chunk.model_extra} == {"flex"}
    assert worker.jobs[0].header.priority == -3


async def test_a_salt_goes_with_the_job_and_keeps_its_prefixes_apart(api: Api, worker: ScriptedWorker) -> None:
    for salt in ("a", "a", "b", None):
        await api.sdk.completions.create(model="tiny", prompt="x" * 200, extra_body={"cache_salt": salt})
    assert [job.cache_salt for job in worker.jobs] == ["a", "a", "b", ""]
    first, second, other, plain = (job.header.affinity for job in worker.jobs)
    assert first == second
    assert len({*first, *other, *plain}) == len(first) * 3


async def test_a_beam_search_goes_to_the_worker_with_its_width(api: Api, worker: ScriptedWorker) -> None:
    fields = {"use_beam_search": True, "length_penalty": -1, "best_of": 5}
    answer = await api.sdk.completions.create(model="tiny", prompt="ab", n=2, temperature=0, extra_body=fields)
    assert len(answer.choices) == 2
    [job] = worker.jobs
    assert (job.n, job.sampling.beams) == (2, BeamSpec(5, -1.0))
    assert job.sampling.logprobs is None
    assert job.header.cost_tokens == (3 + 16) * 5


async def test_what_only_the_worker_can_do_reaches_it(valkey_url: str) -> None:
    options = {"logits_processor_pattern": r"own\.\w+", "max_logprobs": 257}
    fields = {
        "logits_processors": ["own.plain", {"qualname": "own.made", "args": [1], "kwargs": {"k": [2.5]}}],
        "repetition_detection": {"max_pattern_size": 4, "min_count": 3, "min_pattern_size": None},
        "logprobs": -1,
        "prompt_logprobs": -1,
    }
    async with running_worker(valkey_url, **options) as worker, running_api(valkey_url) as api:
        await api.sdk.completions.create(model="tiny", prompt="ab", extra_body=fields)
        refused = await api.http.post(
            "/v1/completions", json={"prompt": "ab", "logits_processors": ["own.plain", "own.plain.more"]}
        )
    [job] = worker.jobs
    assert job.sampling.logits_processors == (
        ProcessorCall("own.plain"),
        ProcessorCall("own.made", True, (1,), {"k": [2.5]}),
    )
    assert (job.sampling.logprobs, job.sampling.prompt_logprobs) == (257, 257)
    assert job.stopping.repetition == RepetitionSpec(4, 3, 1)
    assert refused.status_code == 400
    assert "'own.plain.more' is not allowed" in refused.json()["error"]["message"]


async def _scored(_worker: ScriptedWorker, claim: Claim) -> AsyncGenerator[list[Event], None]:
    """One token, and of each token asked for a score that names it."""
    [token_id] = ids_of("A")
    top = [TopLogprob(other, -other / 100, 2) for other in claim.job.sampling.logprob_token_ids]
    yield [Started("scripted")]
    yield [Delta(0, [token_id], "A", [TokenLogprob(token_id, -0.5, 1, top)], FinishReason.STOP), Finished(3, 1)]


async def test_log_probabilities_of_named_tokens_are_shown(valkey_url: str) -> None:
    b, c = ids_of("BC")
    async with running_worker(valkey_url, script=_scored), running_api(valkey_url) as api:
        wish = {"logprob_token_ids": [b, c, b]}
        text = await api.sdk.completions.create(model="tiny", prompt="ab", logprobs=0, extra_body=wish)
        messages: Any = [{"role": "user", "content": "go"}]
        chat = await api.sdk.chat.completions.create(model="tiny", messages=messages, logprobs=True, extra_body=wish)
    assert text.choices[0].logprobs is not None
    assert text.choices[0].logprobs.top_logprobs == [{"A": -0.5, "B": -b / 100, "C": -c / 100}]
    assert chat.choices[0].logprobs is not None
    [token] = chat.choices[0].logprobs.content or []
    assert [(each.token, each.logprob) for each in token.top_logprobs] == [("B", -b / 100), ("C", -c / 100)]


async def test_beams_of_a_chat_can_be_streamed(api: Api, worker: ScriptedWorker) -> None:
    messages: Any = [{"role": "user", "content": "go"}]
    stream = await api.sdk.chat.completions.create(
        model="tiny", messages=messages, n=3, stream=True, extra_body={"use_beam_search": True}
    )
    texts = ["", "", ""]
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == ["Hello!"] * 3
    assert worker.jobs[0].sampling.beams == BeamSpec(3)
