"""The demo model through the whole path says what transformers says."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

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
    "List three colours.",
    "Explain briefly why the sky is blue.",
    "Translate 'good morning' into Spanish.",
]
TOKENS = 32


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
        node.wait_until_ready()
        yield node


@pytest.fixture(scope="module")
def expected(model: Path) -> list[str]:
    """Greedy answers of transformers' own ``generate``, one question at a time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(model)
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    answers = []
    for question in QUESTIONS:
        conversation = [{"role": "user", "content": question}]
        inputs = tokenizer.apply_chat_template(
            conversation, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            ids = reference.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        answers.append(tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    torch.set_num_threads(threads)
    return answers


def test_greedy_answers_equal_transformers_alone_and_side_by_side(api: ApiProcess, expected: list[str]) -> None:
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


def test_an_echoed_prompt_is_scored_as_transformers_scores_it(api: ApiProcess, model: Path) -> None:
    text = "The quick brown fox jumps over the lazy dog."
    client = api.client(timeout=60)
    name = client.models.list().data[0].id
    answer = client.completions.create(model=name, prompt=text, max_tokens=1, echo=True, logprobs=1, temperature=0)
    ids = AutoTokenizer.from_pretrained(model)(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)(ids).logits[0]
    scores = torch.log_softmax(logits, -1)[:-1].gather(1, ids[0, 1:, None])[:, 0].tolist()
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.token_logprobs is not None
    assert logprobs.token_logprobs[0] is None
    assert logprobs.token_logprobs[1 : len(scores) + 1] == pytest.approx(scores, abs=2e-4)
