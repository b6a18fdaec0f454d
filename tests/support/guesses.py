"""Whole answers of an engine around a tiny model, with guesses and without."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from tiny_engine import prompts

from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.event import TokenLogprob
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import SamplingSpec, StoppingSpec
from headrace_worker.execute.build import BuiltRunner
from headrace_worker.execute.native.library import kernels
from headrace_worker.schedule import request
from headrace_worker.schedule.request import Request
from headrace_worker.schedule.scheduler import Scheduler, SchedulerLimits
from headrace_worker.schedule.speculation.proposer import Proposer, Wish
from headrace_worker.schedule.speculation.speculation import Speculation, SpeculationStats

Key = tuple[str, int]
"""Request and choice."""


@dataclass
class Told:
    """All that is told of one choice, and how it was told."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob | None] | None = None
    ending: tuple[object, object] | None = None
    failure: str | None = None
    steps: int = field(default=0, compare=False)


@dataclass
class Asked:
    """One request."""

    prompt: list[int]
    sampling: dict[str, Any] = field(default_factory=dict)
    stopping: dict[str, Any] = field(default_factory=dict)
    n: int = 1
    more: Any = None
    """Called with the request before it is added."""


class Oracle:
    """Knows the answers; of every ``wrong_in`` guesses one is wrong."""

    free = True

    def __init__(self, answers: Mapping[Key, Told], wrong_in: int = 0) -> None:
        self._answers, self._wrong_in = answers, wrong_in

    def propose(self, wishes: list[Wish]) -> list[list[int]]:
        return [self._guess(*wish) for wish in wishes]

    def ended(self, sequence: request.Sequence) -> None:
        pass

    def _guess(self, sequence: request.Sequence, most: int) -> list[int]:
        known = self._answers[sequence.request_id, sequence.choice].token_ids
        start = sequence.output_len
        guesses = known[start : start + most]
        if self._wrong_in:
            guesses = [(g + 1) % 200 if (start + i) % self._wrong_in == 0 else g for i, g in enumerate(guesses)]
        return guesses


@dataclass
class Run:
    """What came of it."""

    answers: dict[Key, Told]
    guessed: SpeculationStats | None
    preemptions: int
    swapped_in: int
    """Blocks that came back from the swap space."""


def answer(
    built: BuiltRunner,
    asked: Sequence[Asked],
    proposer: Proposer | None = None,
    *,
    guesses: int = 4,
    budget: int = 64,
    blocks: int | None = None,
    eos: frozenset[int] | None = None,
    adaptive: bool = False,
) -> Run:
    """All requests side by side, to their ends; with a proposer always with guesses unless it is to be ``adaptive``."""
    limits = SchedulerLimits(
        max_num_seqs=16,
        max_num_batched_tokens=budget,
        max_model_len=built.model.max_model_len,
        block_size=built.runner._attention.cache.block_size,
        num_blocks=blocks or built.num_blocks,
        swap_blocks=built.swap_blocks,
    )
    speculation = None
    if proposer is not None:
        threshold = None if adaptive else 1000
        speculation = Speculation(proposer, guesses, allowed=built.runner.possible, disable_by_batch_size=threshold)
    ending = built.model.eos_token_ids if eos is None else eos
    scheduler = Scheduler(limits, eos_token_ids=ending, speculation=speculation)
    for number, one in enumerate(asked):
        scheduler.add(_request(number, one))
    answers: dict[Key, Told] = {
        (str(number), choice): Told() for number, one in enumerate(asked) for choice in range(one.n)
    }
    swapped_in = 0
    while scheduler.has_work():
        plan = scheduler.plan()
        swapped_in += len(plan.swaps.back)
        sampled = built.runner.execute(plan)
        scheduler.cost.note(plan.load, 0.02 + 0.002 * plan.num_tokens)
        for output in scheduler.commit(plan, sampled):
            told = answers[output.request_id, output.choice]
            told.steps += 1
            told.token_ids += output.token_ids
            told.logprobs += output.logprobs or []
            told.prompt_logprobs = output.prompt_logprobs or told.prompt_logprobs
            told.failure = output.failure or told.failure
            if output.finish_reason is not None:
                told.ending = output.finish_reason, output.stop_reason
    stats = scheduler.stats()
    return Run(answers, stats.speculation, stats.preemptions, swapped_in)


def _request(number: int, asked: Asked) -> Request:
    sampling = {"temperature": 0.0} | asked.sampling
    stopping = {"max_tokens": 24} | asked.stopping
    job = GenerateJob(
        JobHeader(str(number), "tests"),
        pack_ids(asked.prompt),
        n=asked.n,
        sampling=SamplingSpec(**sampling),
        stopping=StoppingSpec(**stopping),
    )
    made = Request.from_job(job, arrival=number)
    if asked.more is not None:
        asked.more(made)
    return made


WAYS = [
    {},
    {"temperature": 1.0, "seed": 1},
    {"temperature": 0.7, "seed": 2, "top_k": 9},
    {"temperature": 1.3, "seed": 3, "top_p": 0.8},
    {"temperature": 1.1, "seed": 4, "min_p": 0.05, "logprobs": 3},
    {"repetition_penalty": 1.3},
    {"temperature": 0.8, "seed": 5, "presence_penalty": 0.7, "frequency_penalty": 0.4, "logprobs": 0},
    {"temperature": 1.0, "seed": 6, "logit_bias": {5: 3.0, 9: -2.0}},
    {"temperature": 1.0, "seed": 7, "allowed_token_ids": tuple(range(3, 40))},
    {"temperature": 1.5, "seed": 8, "bad_words": ((8,), (5, 9), (3, 4, 5))},
    {"temperature": 1.0, "seed": 9, "logprobs": 2, "logprob_token_ids": (4, 8, 15)},
    {"temperature": 1.0, "seed": 10, "prompt_logprobs": 1},
]
"""Of drawing tokens: one request's parameters each."""


def asked_in_all_ways(**stopping: Any) -> list[Asked]:
    """One request for each of ``WAYS``, with prompts of different lengths; some have two choices."""
    return [Asked(prompts(5 + 7 * i)[0], way, stopping, n=2 if i % 5 == 1 else 1) for i, way in enumerate(WAYS)]


def assert_same(got: dict[Key, Told], expected: dict[Key, Told], *, exact: bool) -> None:
    """``exact``: to the last bit of a log-probability, with the kernels; portable operators round by the number of rows."""
    if exact and kernels() is not None:
        assert got == expected
        return
    for key, told in expected.items():
        assert (got[key].token_ids, got[key].ending, got[key].failure) == (told.token_ids, told.ending, told.failure)
        assert [entry.logprob for entry in got[key].logprobs] == pytest.approx(
            [entry.logprob for entry in told.logprobs], abs=1e-3
        )
