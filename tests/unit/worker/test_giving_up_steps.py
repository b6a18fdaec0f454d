"""A step of background requests alone is given up when somebody else comes, and nothing is lost by it."""

import pytest

from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import StoppingSpec
from headrace_worker.engine.generate import GenerateEngine
from headrace_worker.engine.simulate import EOS_ID, SimulatedRunner
from headrace_worker.schedule.request import Request
from headrace_worker.schedule.scheduler import Scheduler, SchedulerLimits


def an_engine(step_ms: float = 0) -> GenerateEngine:
    limits = SchedulerLimits(max_num_seqs=4, max_num_batched_tokens=64, max_model_len=256, block_size=16, num_blocks=64)
    return GenerateEngine(Scheduler(limits, eos_token_ids=frozenset({EOS_ID})), SimulatedRunner(step_ms))


def a_request(name: str, arrival: int, *, background: bool) -> Request:
    stopping = StoppingSpec(max_tokens=12, ignore_eos=True)
    job = GenerateJob(JobHeader(name, "q", background=background), pack_ids(range(5, 45)), stopping=stopping)
    return Request.from_job(job, arrival=arrival)


def answers(engine: GenerateEngine) -> dict[str, list[int]]:
    told: dict[str, list[int]] = {}
    while engine.has_work():
        for output in engine.step():
            told.setdefault(output.request_id, []).extend(output.token_ids)
    return told


@pytest.mark.parametrize("steps_before", [0, 1, 5])
def test_a_step_that_was_given_up_is_computed_again_with_the_same_outcome(steps_before: int) -> None:
    expected = an_engine()
    expected.add(a_request("batch", 1, background=True))
    engine = an_engine(step_ms=1)
    engine.add(a_request("batch", 1, background=True))
    begun = [token for _ in range(steps_before) for output in engine.step() for token in output.token_ids]
    engine.hurry()
    assert engine.step() == []
    assert (engine.stats().steps_given_up, engine.take_facts() is None) == (1, steps_before == 0)
    engine.calm_down()
    assert begun + answers(engine)["batch"] == answers(expected)["batch"]


def test_a_step_with_others_in_it_is_never_given_up() -> None:
    engine = an_engine(step_ms=1)
    engine.add(a_request("batch", 1, background=True))
    engine.add(a_request("user", 2, background=False))
    engine.hurry()
    outputs = [output for _ in range(3) for output in engine.step()]
    assert {output.request_id for output in outputs} == {"user"}
    assert engine.stats().steps_given_up == 0
