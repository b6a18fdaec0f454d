"""A real scheduler and runner around a tiny model."""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from tiny_models import VOCAB

from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.event import TokenLogprob
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import SamplingSpec, StoppingSpec
from headrace_worker.execute.attention.cache_kind import CacheFormat, CacheKind
from headrace_worker.execute.build import BuiltRunner, Parts, assemble
from headrace_worker.execute.kv_cache import CacheSize, block_bytes
from headrace_worker.models.load import ModelSource, load_model
from headrace_worker.schedule.request import Request
from headrace_worker.schedule.scheduler import Scheduler, SchedulerLimits

BLOCK = 16
PATHS = {
    "portable": Parts(native=False, packed=False, lean=False),
    "onednn": Parts(native=False, packed=True, lean=False),
    "modules": Parts(lean=False),
    "lean": Parts(),
}


def prompts(*lengths: int) -> list[list[int]]:
    """Different tokens for each length, the same each time; none is special."""
    return [[random.Random(1000 * length + i).randrange(3, VOCAB) for i in range(length)] for length in lengths]


def build(
    folder: Path,
    parts: Parts,
    *,
    blocks: int = 64,
    block_size: int = BLOCK,
    device: str = "cpu",
    dtype: str = "auto",
    quantization: str = "none",
    swap_blocks: int = 0,
    offload_bytes: int = 0,
    kept: CacheFormat = CacheFormat.PLAIN,
) -> BuiltRunner:
    source = ModelSource(
        str(folder), device=device, dtype=dtype, quantization=quantization, cpu_offload_bytes=offload_bytes
    )
    loaded = load_model(source)
    one = block_bytes(loaded.layers, block_size, CacheKind(torch.float32, loaded.device, kept))
    size = CacheSize(block_size=block_size, memory_bytes=blocks * one, swap_bytes=swap_blocks * one, format=kept)
    return assemble(loaded, size, parts)


def with_draft(target: Path, draft: Path, *, blocks: int = 160, swap_blocks: int = 0) -> BuiltRunner:
    """A model that another one guesses for."""
    loaded, guesser = load_model(ModelSource(str(target))), load_model(ModelSource(str(draft)))
    kind = CacheKind(torch.float32, loaded.device)
    memory = blocks * block_bytes(loaded.layers + guesser.layers, BLOCK, kind)
    swap_bytes = swap_blocks * block_bytes(loaded.layers, BLOCK, kind)
    return assemble(loaded, CacheSize(memory_bytes=memory, swap_bytes=swap_bytes), draft=guesser)


@dataclass
class Answers:
    """What came out of a run: tokens by prompt, and what it took."""

    tokens: list[list[int]]
    preemptions: int
    mixed_steps: int
    """Steps that had decodes and prefill chunks together."""
    prompt_logprobs: list[list[TokenLogprob | None] | None]
    logprobs: list[list[TokenLogprob]]
    prefix_hit_tokens: int = 0
    swapped_in: int = 0
    """Blocks that came back from the swap space."""


def run(
    built: BuiltRunner,
    asked: list[list[int]],
    count: int,
    *,
    budget: int = 32,
    blocks: int | None = None,
    sampling: SamplingSpec | None = None,
    share_prefixes: bool = True,
) -> Answers:
    """Generate ``count`` tokens for each prompt, all at once; ``budget`` is the tokens per step."""
    limits = SchedulerLimits(
        max_num_seqs=16,
        max_num_batched_tokens=budget,
        max_model_len=256,
        block_size=built.runner._attention.cache.block_size,
        num_blocks=blocks or built.num_blocks,
        enable_prefix_caching=share_prefixes,
        swap_blocks=built.swap_blocks,
    )
    scheduler = Scheduler(limits, eos_token_ids=built.model.eos_token_ids)
    for number, prompt in enumerate(asked):
        job = GenerateJob(
            JobHeader(str(number), "tests"),
            pack_ids(prompt),
            sampling=sampling or SamplingSpec(temperature=0),
            stopping=StoppingSpec(max_tokens=count),
        )
        scheduler.add(Request.from_job(job, arrival=number))
    answers = Answers([[] for _ in asked], 0, 0, [None for _ in asked], [[] for _ in asked])
    while scheduler.has_work():
        plan = scheduler.plan()
        sizes = [part.count for part in plan.slices]
        answers.mixed_steps += min(sizes) == 1 < max(sizes)
        answers.swapped_in += len(plan.swaps.back)
        for output in scheduler.commit(plan, built.runner.execute(plan)):
            answers.tokens[int(output.request_id)] += output.token_ids
            answers.logprobs[int(output.request_id)] += output.logprobs or []
            if output.prompt_logprobs is not None:
                answers.prompt_logprobs[int(output.request_id)] = output.prompt_logprobs
    answers.preemptions = scheduler.stats().preemptions
    answers.prefix_hit_tokens = scheduler.stats().prefix_hit_tokens
    return answers
