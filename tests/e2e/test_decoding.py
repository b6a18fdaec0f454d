"""Real models behind real processes: beam search, own logits processors and circles, also across the loss of a worker."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import own_processors_examples
import pytest
import tokenizer_families
import torch
from constrained import save_model
from fleet import ApiProcess, Fleet, fleet_on, wait_until
from transformers import AutoModelForCausalLM
from worker_process import WorkerProcess

from headrace_cli.embedded_redis import EmbeddedRedis

MODEL = "tiny"
PROMPT = [40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57]
WORKERS: list[WorkerProcess] = []

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tokenizer_families.FAMILIES["qwen"]()
    save_model(folder, tokenizer.get_vocab_size(), tokenizer.token_to_id("<|im_end|>"))
    tokenizer.save(str(folder / "tokenizer.json"))
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}<|im_start|>"
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with EmbeddedRedis(tmp_path_factory.mktemp("valkey")) as server, fleet_on(server.url) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def api(system: Fleet, folder: Path) -> Iterator[ApiProcess]:
    support = Path(own_processors_examples.__file__).parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{os.environ.get('PYTHONPATH', '')}{os.pathsep}{support}")
        _worker(system, folder)
        node = system.api(no_worker_grace_s=90, first_event_wait_s=0)
        # A busy machine takes its time to load torch.
        wait_until(lambda: node.serves(1, 1), "the worker has loaded its model", 90)
        yield node


def _worker(system: Fleet, folder: Path) -> None:
    settings = {"engine": "torch", "device": "cpu", "threads": 1, "kv_cache_memory": "64MiB", "max_logprobs": -1}
    pattern = r"own_processors_examples\.\w+"
    WORKERS.append(
        system.worker(
            model=str(folder), served_model_name=MODEL, logits_processor_pattern=pattern, dtype="float32", **settings
        )
    )


def _ask(api: ApiProcess, *, n: int = 1, tokens: int = 12, **fields: Any) -> Any:
    with api.client() as client:
        return client.completions.create(
            model=MODEL, prompt=PROMPT, n=n, max_tokens=tokens, extra_body={"return_token_ids": True, **fields}
        )


def test_beams_are_those_of_transformers_also_when_their_worker_is_lost(
    system: Fleet, api: ApiProcess, folder: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    inputs = torch.tensor([PROMPT])
    expected = model.generate(
        inputs, attention_mask=torch.ones_like(inputs), do_sample=False, num_beams=4, num_return_sequences=2,
        length_penalty=0.5, early_stopping=False, max_new_tokens=12, pad_token_id=0,
    )  # fmt: skip
    wish = {"use_beam_search": True, "best_of": 4, "length_penalty": 0.5}
    answer = _ask(api, n=2, **wish)
    assert [choice.token_ids for choice in answer.choices] == [
        _cut(row[len(PROMPT) :].tolist(), model.config.eos_token_id) for row in expected
    ]

    chat: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "n": 2, "max_tokens": 120}
    extra = {**wish, "ignore_eos": True, "logits_processors": ["own_processors_examples.slow"]}
    with api.client() as client:
        whole = client.chat.completions.create(**chat, extra_body=extra)
        # Comes back while the search goes on, of which nothing is told before its end.
        chunks = client.chat.completions.create(**chat, stream=True, extra_body=extra)
        WORKERS.pop().kill()
        _worker(system, folder)
        texts = ["", ""]
        for chunk in chunks:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
        request_id = chunks.response.headers["x-headrace-request-id"]
    report = httpx.get(f"{api.url}/v1/requests/{request_id}").json()
    assert texts == [choice.message.content for choice in whole.choices]
    assert (report["attempts"], report["lost_workers"]) == (2, 1)


def _cut(row: list[int], eos: int) -> list[int]:
    """Without the padding behind the end-of-text token."""
    return row[: row.index(eos) + 1] if eos in row else row


def test_own_logits_processors_steer_an_answer_and_fail_alone(api: ApiProcess) -> None:
    made = {"qualname": "own_processors_examples.Counting", "args": [10], "kwargs": {"step": 2}}
    answer = _ask(api, tokens=4, logits_processors=[made], logprobs=-1)
    assert answer.choices[0].token_ids == [28, 30, 32, 34]
    for name, words in (("failing", "failing failed: RuntimeError"), ("unknown", "cannot be made: AttributeError")):
        with pytest.raises(openai.BadRequestError, match=words) as caught:
            _ask(api, logits_processors=[f"own_processors_examples.{name}"])
        assert caught.value.param == "logits_processors"
        assert "secret" not in str(caught.value)
    with pytest.raises(openai.BadRequestError, match="not allowed by this server"):
        _ask(api, logits_processors=["os.system"])


def test_an_answer_that_goes_round_in_circles_ends_so(api: ApiProcess) -> None:
    steady = {"logits_processors": ["own_processors_examples.only_token_9"]}
    answer = _ask(api, tokens=50, repetition_detection={"max_pattern_size": 3, "min_count": 5}, **steady)
    assert answer.choices[0].token_ids == [9] * 5
    assert answer.choices[0].finish_reason == "repetition"
