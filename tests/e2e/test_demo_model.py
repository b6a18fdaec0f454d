"""The demo model through the whole path says what transformers says."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from fleet import ApiProcess, fleet_on
from transformers import AutoModelForCausalLM, AutoTokenizer

from headrace_cli import demo_model
from headrace_cli.embedded_redis import EmbeddedRedis
from headrace_cli.terminal import Terminal

QUESTIONS = [
    "What is the capital of France?",
    "Write one sentence about rivers.",
    "Explain briefly why the sky is blue.",
]
TOKENS = 20
TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def model() -> Path:
    """Downloaded once per machine, then from the cache."""
    return demo_model.ensure(Terminal())


@pytest.fixture(scope="module")
def api(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    with EmbeddedRedis(tmp_path_factory.mktemp("valkey")) as server, fleet_on(server.url) as fleet:
        fleet.worker(
            model=model, engine="torch", threads=1, max_num_batched_tokens=64, kv_cache_memory="256MiB", lease_ms=3000
        )
        node = fleet.api()
        # Loading it takes seconds, and many more where several suites run at once.
        node.wait_until_ready(timeout_s=100)
        yield node


@dataclass
class Reference:
    """transformers' own model and tokenizer, one request at a time."""

    tokenizer: Any
    model: Any

    def prompt(self, question: str) -> Any:
        """Token ids of a chat, with a batch's dimension."""
        conversation = [{"role": "user", "content": question}]
        return self.tokenizer.apply_chat_template(
            conversation, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]

    def generate(self, ids: Any, **options: Any) -> list[list[int]]:
        """What comes after ``ids``, never sampled."""
        mask = torch.ones_like(ids)
        with torch.inference_mode():
            found = self.model.generate(ids, attention_mask=mask, max_new_tokens=TOKENS, do_sample=False, **options)
        return [sequence[ids.shape[1] :].tolist() for sequence in found]

    def scores(self, ids: list[int]) -> Any:
        """Log-probabilities of every token at each position after the first."""
        with torch.inference_mode():
            return torch.log_softmax(self.model(torch.tensor([ids])).logits[0, :-1].float(), -1)

    def text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


@pytest.fixture(scope="module")
def reference(model: Path) -> Iterator[Reference]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(model)
    yield Reference(tokenizer, AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32))
    torch.set_num_threads(threads)


def ranked(row: Any, count: int) -> list[float]:
    return torch.topk(row, count).values.tolist()


def test_greedy_answers_equal_transformers_alone_and_side_by_side(api: ApiProcess, reference: Reference) -> None:
    expected = [reference.text(reference.generate(reference.prompt(question))[0]) for question in QUESTIONS]

    async def ask() -> tuple[list[str], list[str]]:
        async with api.async_client(timeout=120) as client:

            async def one(question: str) -> str:
                stream = await client.chat.completions.create(
                    model=(await client.models.list()).data[0].id,
                    messages=[{"role": "user", "content": question}],
                    max_tokens=TOKENS,
                    temperature=0,
                    stream=True,
                )
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            alone = [await one(question) for question in QUESTIONS]
            return alone, list(await asyncio.gather(*(one(question) for question in QUESTIONS)))

    alone, together = asyncio.run(ask())
    assert alone == expected
    assert together == expected


def test_a_chats_logprobs_are_those_of_transformers(api: ApiProcess, reference: Reference) -> None:
    ids = reference.prompt(QUESTIONS[0])
    [due] = reference.generate(ids)
    answer = api.client(timeout=60).chat.completions.create(
        model=api.client().models.list().data[0].id,
        messages=[{"role": "user", "content": QUESTIONS[0]}],
        max_tokens=TOKENS,
        temperature=0,
        logprobs=True,
        top_logprobs=5,
        extra_body={"prompt_logprobs": 3, "return_token_ids": True},
    )
    [choice] = answer.choices
    told, prompt = choice.model_extra or {}, ids[0].tolist()
    assert (answer.model_extra or {})["prompt_token_ids"] == prompt
    assert told["token_ids"] == due
    scores = reference.scores(prompt + due)
    assert choice.logprobs is not None
    for place, entry in enumerate(choice.logprobs.content or [], start=len(prompt) - 1):
        taken = due[place - len(prompt) + 1]
        assert entry.logprob == pytest.approx(scores[place][taken].item(), abs=TOLERANCE)
        assert [top.logprob for top in entry.top_logprobs] == pytest.approx(ranked(scores[place], 5), abs=TOLERANCE)
    check_prompt_logprobs((answer.model_extra or {})["prompt_logprobs"], prompt, scores, 3)


def check_prompt_logprobs(told: list[Any], prompt: list[int], scores: Any, most: int) -> None:
    """By token id: the ``most`` likely at each place, and the one that is there, with its rank."""
    assert told[0] is None
    assert len(told) == len(prompt)
    for place, candidates in enumerate(told[1:]):
        row, there = scores[place], prompt[place + 1]
        for token_id, candidate in candidates.items():
            assert candidate["logprob"] == pytest.approx(row[int(token_id)].item(), abs=TOLERANCE)
        # Far down the list neighbours are closer to one another than two ways to compute them.
        surely, perhaps = (row > row[there] + TOLERANCE).sum().item(), (row > row[there] - TOLERANCE).sum().item()
        assert surely < candidates[str(there)]["rank"] <= perhaps
        best = sorted((candidate["logprob"] for candidate in candidates.values()), reverse=True)[:most]
        assert best == pytest.approx(ranked(row, most), abs=TOLERANCE)


@pytest.mark.parametrize("text", ["The quick brown fox jumps over the lazy dog.", "Größe: 12 µm 🙂"])
def test_an_echoed_prompt_is_scored_as_transformers_scores_it(api: ApiProcess, reference: Reference, text: str) -> None:
    client = api.client(timeout=60)
    name = client.models.list().data[0].id
    answer = client.completions.create(
        model=name,
        prompt=text,
        max_tokens=1,
        echo=True,
        logprobs=2,
        temperature=0,
        extra_body={"prompt_logprobs": 2},
    )
    ids = reference.tokenizer(text)["input_ids"]
    scores = reference.scores(ids)
    [choice] = answer.choices
    logprobs = choice.logprobs
    assert logprobs is not None
    assert logprobs.token_logprobs is not None
    taken = scores.gather(1, torch.tensor(ids)[1:, None])[:, 0].tolist()
    assert logprobs.token_logprobs[0] is None
    assert logprobs.token_logprobs[1 : len(ids)] == pytest.approx(taken, abs=TOLERANCE)
    check_prompt_logprobs((choice.model_extra or {})["prompt_logprobs"], ids, scores, 2)


def test_the_beams_are_those_that_transformers_finds(api: ApiProcess, reference: Reference) -> None:
    client = api.client(timeout=120)
    due = reference.generate(reference.prompt(QUESTIONS[1]), num_beams=3, num_return_sequences=3)
    answer = client.chat.completions.create(
        model=client.models.list().data[0].id,
        messages=[{"role": "user", "content": QUESTIONS[1]}],
        max_tokens=TOKENS,
        n=3,
        temperature=0,
        extra_body={"use_beam_search": True},
    )
    assert [choice.message.content for choice in answer.choices] == [reference.text(ids) for ids in due]
