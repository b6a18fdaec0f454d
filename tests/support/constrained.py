"""A tiny model with a real tokenizer, and answers of it that follow a grammar."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizer_families
import torch
from tiny_engine import build
from transformers import AutoConfig, AutoModelForCausalLM

from headrace_api.grammar.translate import constraint_of
from headrace_api.schemas.completions import CompletionRequest
from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.event import FinishReason, TokenLogprob
from headrace_shared.protocol.grammar import GrammarBackend, GrammarSpec
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import SamplingSpec, StoppingSpec
from headrace_shared.text.tokenizer import Tokenizer
from headrace_worker.execute.build import Parts
from headrace_worker.execute.grammar.compiler import GrammarCompiler
from headrace_worker.execute.grammar.vocabulary import Vocabulary
from headrace_worker.schedule.request import Request
from headrace_worker.schedule.scheduler import Scheduler, SchedulerLimits
from headrace_worker.schedule.speculation.proposer import Proposer
from headrace_worker.schedule.speculation.speculation import Speculation, SpeculationStats

MAX_MODEL_LEN = 1024
PADDING = 13
"""Logits that no token of the tokenizer has."""


def spec_of(**fields: Any) -> GrammarSpec:
    """The grammar of a request with these fields."""
    body = CompletionRequest.parse(json.dumps({"prompt": "x", **fields}).encode())
    constraint = constraint_of(body, list(GrammarBackend)[1:])
    assert constraint is not None
    return constraint.spec


@dataclass
class Asked:
    """One request: its prompt, parameters, and the tokens of an earlier attempt by choice."""

    prompt: list[int]
    sampling: SamplingSpec
    stopping: StoppingSpec
    n: int = 1
    resumed: dict[int, list[int]] | None = None


@dataclass
class Answered:
    """One choice."""

    token_ids: list[int]
    logprobs: list[TokenLogprob]
    finish_reason: FinishReason
    text: str


class ConstrainedEngine:
    """Scheduler, runner and grammar compiler, driven step by step."""

    def __init__(self, folder: Path, family: str = "gpt2", *, blocks: int = 1024) -> None:
        backend = tokenizer_families.FAMILIES[family]()
        self.tokenizer = Tokenizer.from_bytes(backend.to_str().encode())
        self.eos = max(self.tokenizer.special_ids)
        self.vocab_size = self.tokenizer.vocab_size + PADDING
        self._built = build(save_model(folder, self.vocab_size, self.eos), Parts(), blocks=blocks)
        self.compiler = GrammarCompiler(lambda: Vocabulary.of(self.tokenizer, self.vocab_size, frozenset({self.eos})))
        self.preemptions = 0
        self.guessed: SpeculationStats | None = None

    def ask(
        self, text: str = "answer:", *, max_tokens: int = 400, min_tokens: int = 0, n: int = 1, **sampling: Any
    ) -> Asked:
        prompt = self.tokenizer.encode(text, add_special_tokens=False)
        return Asked(prompt, SamplingSpec(**sampling), StoppingSpec(max_tokens=max_tokens, min_tokens=min_tokens), n)

    def run(
        self, asked: list[Asked], *, blocks: int | None = None, proposer: Proposer | None = None
    ) -> list[list[Answered]]:
        """All requests side by side; the choices of each. With a proposer there are always guesses."""
        limits = SchedulerLimits(
            max_num_seqs=32,
            max_num_batched_tokens=256,
            max_model_len=MAX_MODEL_LEN,
            block_size=16,
            num_blocks=blocks or self._built.num_blocks,
        )
        speculation = None
        if proposer is not None:
            possible = self._built.runner.possible
            speculation = Speculation(proposer, 5, allowed=possible, disable_by_batch_size=1000)
        scheduler = Scheduler(limits, eos_token_ids=frozenset({self.eos}), speculation=speculation)
        for number, one in enumerate(asked):
            scheduler.add(self._request(number, one))
        found = [
            {choice: Answered(list((one.resumed or {}).get(choice, [])), [], FinishReason.ABORT, "") for choice in range(one.n)}
            for one in asked
        ]  # fmt: skip
        while scheduler.has_work():
            plan = scheduler.plan()
            for output in scheduler.commit(plan, self._built.runner.execute(plan)):
                answer = found[int(output.request_id)][output.choice]
                answer.token_ids += output.token_ids
                answer.logprobs += output.logprobs or []
                if output.finish_reason is not None:
                    answer.finish_reason = output.finish_reason
        stats = scheduler.stats()
        self.preemptions, self.guessed = stats.preemptions, stats.speculation
        for answer in (answer for choices in found for answer in choices.values()):
            answer.text = self.tokenizer.decode(answer.token_ids, skip_special_tokens=True)
        return [list(choices.values()) for choices in found]

    def _request(self, number: int, asked: Asked) -> Request:
        job = GenerateJob(
            JobHeader(str(number), "tests"), pack_ids(asked.prompt), asked.n, asked.sampling, asked.stopping
        )
        request = Request.from_job(job, arrival=number, resumed=asked.resumed)
        request.limit_thinking(self.tokenizer.token_bytes)
        if asked.sampling.grammar is not None:
            request.constrain(self.compiler.compile(asked.sampling.grammar).result())
        return request


def save_served_model(folder: Path) -> Path:
    """The same with a tokenizer and a template beside it, as a hub would have it."""
    tokenizer = tokenizer_families.FAMILIES["qwen"]()
    end = "<|im_end|>"
    save_model(folder, tokenizer.get_vocab_size(), tokenizer.token_to_id(end))
    tokenizer.save(str(folder / "tokenizer.json"))
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}<|im_start|>"
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def save_model(folder: Path, vocab_size: int, eos: int) -> Path:
    """A random model with so many logits, for a tokenizer that lies elsewhere or beside it."""
    config = AutoConfig.for_model(
        "llama",
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_MODEL_LEN,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=None,
        initializer_range=0.2,
    )
    torch.manual_seed(7)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder
