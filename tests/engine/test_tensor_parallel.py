"""A model that two processes compute together (gloo, on a CPU) says what it says in one."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tiny_engine import PATHS, build, prompts, run
from tiny_models import make_model

from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import BeamSpec, SamplingSpec, StoppingSpec
from headrace_worker.engine.speculate import build_speculation
from headrace_worker.execute.attention.cache_kind import CacheFormat
from headrace_worker.execute.build import BuiltRunner
from headrace_worker.execute.inputs import build_inputs
from headrace_worker.execute.kv_cache import BlockMove
from headrace_worker.execute.parallel.leader import build_parallel_runner
from headrace_worker.execute.parallel.orders import ComputeLogits, ComputeStep, MoveBlocks, read_order
from headrace_worker.models.errors import ModelLoadError
from headrace_worker.models.load import ModelSource, check_model
from headrace_worker.schedule.plan import Slice, StepGivenUpError
from headrace_worker.schedule.request import Request
from headrace_worker.schedule.scheduler import Scheduler, SchedulerLimits
from headrace_worker.settings import WorkerSettings

ASKED = prompts(3, 33, 18, 64, 47)
COUNT = 24
FAMILIES = ["llama_bias_rope3", "qwen3", "gemma2", "mixtral", "phi3"]
"""Biases behind sums over ranks; norms of heads; soft-caps and windows; experts; projections that are gathered again."""

pytestmark = pytest.mark.slow


def settings(folder: Path, **options: Any) -> WorkerSettings:
    return WorkerSettings(
        model=str(folder), tensor_parallel_size=2, device="cpu", threads=1, num_gpu_blocks_override=64, **options
    )


@contextmanager
def split(asked: WorkerSettings) -> Iterator[BuiltRunner]:
    built, leader = build_parallel_runner(asked)
    try:
        yield built
    finally:
        leader.close()


@dataclass
class Outcome:
    tokens: dict[tuple[str, int], list[int]]
    copies: int = 0
    accepted: int = 0


def drive(built: BuiltRunner, jobs: list[GenerateJob], asked: WorkerSettings | None = None) -> Outcome:
    """All of them at once, with the guesses that the settings ask for."""
    config = asked.speculation if asked is not None else None
    limits = SchedulerLimits(
        max_num_seqs=16, max_num_batched_tokens=32, max_model_len=256, block_size=16, num_blocks=built.num_blocks
    )
    speculation = build_speculation(config, built) if config is not None else None
    scheduler = Scheduler(limits, eos_token_ids=frozenset(), speculation=speculation)
    for number, job in enumerate(jobs):
        scheduler.add(Request.from_job(job, arrival=number, run_id=str(number)))
    outcome = Outcome({})
    while scheduler.has_work():
        plan = scheduler.plan()
        outcome.copies += len(plan.copies)
        for output in scheduler.commit(plan, built.runner.execute(plan)):
            outcome.tokens.setdefault((output.request_id, output.choice), []).extend(output.token_ids)
    stats = scheduler.stats().speculation
    outcome.accepted = stats.accepted_tokens if stats is not None else 0
    return outcome


def job(prompt: list[int], n: int = 1, **sampling: Any) -> GenerateJob:
    return GenerateJob(
        JobHeader("r", "tests"), pack_ids(prompt), n, SamplingSpec(**sampling), StoppingSpec(max_tokens=COUNT)
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_two_ranks_give_the_tokens_of_one_in_a_mixed_batch_with_preemption(name, tiny, generate):
    swap_space = 0.0 if name == "qwen3" else 0.01
    with split(settings(tiny(name), swap_space=swap_space)) as built:
        mixed = run(built, ASKED, COUNT, budget=24, blocks=13)
        layer = built.model.layers[0]
    assert mixed.tokens == [generate(name, prompt, COUNT) for prompt in ASKED]
    assert mixed.mixed_steps > 0
    assert mixed.preemptions > 0
    assert (mixed.swapped_in > 0) == (swap_space > 0)
    # phi3's plan gathers its fused projection again, so that each rank has all heads.
    assert (layer.num_heads, layer.num_kv_heads) == ((4, 2) if name == "phi3" else (2, 1))


def test_whatever_is_asked_of_it_a_split_model_is_the_same_model(tiny):
    """One pair of processes for all of it: they take long to start."""
    whole = build(tiny("llama"), PATHS["lean"])
    several = [
        job(ASKED[1], 3, temperature=1.0, seed=5),
        job(ASKED[2], 2, beams=BeamSpec(4, 1.0)),
        job(ASKED[1], temperature=0.0),
    ]
    scored = SamplingSpec(temperature=0, logprobs=3, prompt_logprobs=2)
    with split(settings(tiny("llama"))) as built:
        # Choices and beams copy blocks that they share, and equal prompts are found in the prefix cache.
        drawn, expected = drive(built, several), drive(whole, several)
        assert drawn.tokens == expected.tokens
        assert drawn.copies > 0
        told = run(built, ASKED, COUNT, sampling=scored)
        _steps_are_given_up_as_a_whole_or_not_at_all(built)
    alone = run(whole, ASKED, COUNT, sampling=scored)
    assert told.tokens == alone.tokens
    assert _far_apart(told.logprobs, alone.logprobs) < 1e-4
    prompt = [[each[1:] for each in found.prompt_logprobs if each] for found in (told, alone)]
    assert _far_apart(*prompt) < 1e-4


def _far_apart(some: Any, others: Any) -> float:
    """Largest difference of log-probabilities."""
    pairs = [
        (one.logprob, other.logprob) for a, b in zip(some, others, strict=True) for one, other in zip(a, b, strict=True)
    ]
    assert pairs
    return max(abs(one - other) for one, other in pairs)


def _steps_are_given_up_as_a_whole_or_not_at_all(built: BuiltRunner) -> None:
    limits = SchedulerLimits(
        max_num_seqs=4, max_num_batched_tokens=64, max_model_len=256, block_size=16, num_blocks=built.num_blocks
    )
    scheduler = Scheduler(limits, eos_token_ids=frozenset())
    scheduler.add(Request.from_job(job(ASKED[1], temperature=0.0), arrival=0))
    plan = scheduler.plan()
    plan.unwanted = lambda: True
    with pytest.raises(StepGivenUpError):
        built.runner.execute(plan)
    scheduler.give_up()
    plan = scheduler.plan()
    looks = iter([False])
    # Once the other rank has begun, nobody asks: it would wait for ever.
    plan.unwanted = lambda: next(looks)
    assert len(built.runner.execute(plan).token_ids) == 1


def test_each_rank_keeps_its_heads_in_eight_bits_as_one_process_would(tiny):
    with split(settings(tiny("llama_bias_rope3"), kv_cache_dtype="int8")) as built:
        assert built.cache_kind.name == "int8"
        mixed = run(built, ASKED, COUNT, budget=24, blocks=14)
    whole = build(tiny("llama_bias_rope3"), PATHS["lean"], kept=CacheFormat.INT8)
    assert mixed.tokens == run(whole, ASKED, COUNT).tokens
    assert mixed.preemptions > 0


def test_a_draft_model_stays_whole_beside_a_split_one(tiny, tmp_path):
    asked = settings(
        tiny("llama"),
        speculative_config={"method": "draft_model", "model": str(tiny("llama")), "num_speculative_tokens": 3},
    )
    jobs = [job(prompt, temperature=0.0) for prompt in ASKED]
    with split(asked) as built:
        guessed = drive(built, jobs, asked)
    assert guessed.tokens == drive(build(tiny("llama"), PATHS["lean"]), jobs).tokens
    assert guessed.accepted > COUNT


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("llama", 3, "4 attention heads and 2 KV heads cannot be split over 3 processes; tensor_parallel_size can be 1 or 2"),
        ("llama_tied", 2, "4 attention heads and 1 KV heads cannot be split over 2 processes; tensor_parallel_size can be 1"),
        ("gpt2", 2, "no plan to split the layers of gpt2"),
        ("gpt_oss", 2, "no plan to split the layers of gpt_oss"),
    ],
)  # fmt: skip
def test_what_cannot_be_split_is_refused_before_anything_is_loaded(name, size, said, tiny):
    with pytest.raises(ModelLoadError, match=said):
        check_model(ModelSource(str(tiny(name)), device="cpu", tensor_parallel_size=size))


@pytest.mark.parametrize("options", [{"load_format": "dummy"}, {"overrides": {"quantization_config": {"bits": 4}}}])
def test_weights_that_are_not_plain_are_not_split(options, tiny):
    with pytest.raises(ModelLoadError, match="tensor_parallel_size"):
        check_model(ModelSource(str(tiny("llama")), device="cpu", tensor_parallel_size=2, **options))


@pytest.mark.parametrize("options", [{"engine": "simulated"}, {"quantization": "int8"}, {"device": "cuda:1"}])
def test_settings_that_contradict_a_split_are_refused(options):
    with pytest.raises(ValidationError, match="tensor_parallel_size"):
        WorkerSettings(model="m", tensor_parallel_size=2, **options)


def test_a_process_that_cannot_load_leaves_none_behind(tmp_path):
    folder = make_model("llama", tmp_path / "broken")
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelLoadError, match="cannot load"), split(settings(folder)):
        pass
    for thread in threading.enumerate():
        if thread.name == "rank 1":
            thread.join(5)
            assert not thread.is_alive(), "it waits for a process that still runs"
    # The next one finds no process group in its way.
    assert not torch.distributed.is_initialized()


def test_orders_come_out_of_a_pipe_as_they_went_in():
    sequence = Request.from_job(job(ASKED[1]), arrival=0).sequences[0]
    sequence.block_table.extend([4, 9, 2])
    step = build_inputs([Slice(sequence, 16, 17, samples=True)], 16, torch.device("cpu"))
    moves = [MoveBlocks(way, [(1, 2), (3, way)]) for way in BlockMove]
    orders = [*moves, ComputeStep(step.input_ids, step.positions, step.batch), ComputeLogits(7)]
    packed = b"".join(order.pack() for order in orders)
    stream = io.BytesIO(packed)
    *moved, computed, logits = (read_order(stream, torch.device("cpu")) for _ in orders)
    assert (moved, logits) == (moves, orders[-1])
    assert isinstance(computed, ComputeStep)
    assert computed.input_ids.tolist() == ASKED[1][16:]
    assert computed.positions.tolist() == list(range(16, 33))
    for name in ("query_starts", "contexts", "block_tables", "slots"):
        came, went = getattr(computed.batch, name), getattr(step.batch, name)
        assert came.dtype == went.dtype
        assert torch.equal(came, went)
    assert (computed.batch.num_decodes, computed.batch.starts, computed.batch.context_lens) == (0, [0, 17], [33])
    assert read_order(stream, torch.device("cpu")) is None
    half = io.BytesIO(orders[-2].pack()[:-8])
    assert read_order(half, torch.device("cpu")) is None
