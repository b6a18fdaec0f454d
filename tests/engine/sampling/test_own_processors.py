"""Logits processors of the operator's own: what they get, when they count, and what happens when they fail."""

import pytest
import torch
from tiny_engine import PATHS, build, prompts

from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import BeamSpec, ProcessorCall, SamplingSpec, StoppingSpec
from headrace_worker.execute.logits.own import ProcessorLoader
from headrace_worker.schedule.request import Request
from headrace_worker.schedule.scheduler import Scheduler, SchedulerLimits

HERE = "own_processors_examples"
LOADER = ProcessorLoader(rf"{HERE}\.\w+")


def custom(lab, *calls: ProcessorCall, **fields):
    row = lab.sequence(**fields)
    row.processors = LOADER.load(calls)
    return row


def test_a_function_and_a_made_object_change_their_own_row_alone(lab):
    counting = ProcessorCall(f"{HERE}.Counting", True, (100,), {"step": 10})
    rows = [
        custom(lab, ProcessorCall(f"{HERE}.only_token_9"), temperature=0.0),
        lab.sequence(temperature=0.0),
        custom(lab, counting, prompt=(1, 2, 3), output=(5, 5), temperature=0.0),
        custom(lab, ProcessorCall(f"{HERE}.only_token_9"), counting, temperature=1.0, seed=3),
    ]
    logits = lab.logits(4)
    greedy = int(logits[1].argmax())
    assert lab.sampler().sample(logits, rows).token_ids == [9, greedy, 100 + 3 + 20, 100 + 2]


def test_penalties_come_after_them_and_their_limits_before(lab):
    row = custom(
        lab, ProcessorCall(f"{HERE}.only_token_9"), output=(9,), presence_penalty=2.0, logprobs=1, temperature=0.0
    )
    barred = custom(lab, ProcessorCall(f"{HERE}.only_token_9"), bad_words=((9,),), temperature=0.0)
    drawn = lab.sampler().sample(lab.logits(2), [row, barred])
    assert drawn.token_ids == [9, 9]
    assert drawn.failed == {}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("json.loads", "not allowed"),
        (f"{HERE}.only_token_9.more", "not allowed"),
        (f"{HERE}.unknown", "cannot be made: AttributeError"),
        (f"{HERE}.NOT_CALLABLE", "cannot be made: TypeError"),
    ],
)
def test_what_cannot_be_used_is_said_by_name(name, words):
    with pytest.raises(ValueError, match=f"^{name} is {words}|^{name} {words}"):
        LOADER.load([ProcessorCall(name)])
    with pytest.raises(ValueError, match="not allowed"):
        ProcessorLoader(None).load([ProcessorCall(name)])


def test_a_factory_that_breaks_tells_no_secrets():
    with pytest.raises(ValueError, match=r"Counting cannot be made: TypeError$"):
        LOADER.load([ProcessorCall(f"{HERE}.Counting", True, (1, 2, 3))])


@pytest.mark.parametrize("name", ["failing", "misshapen"])
def test_one_that_fails_ends_its_own_request_alone(name, tiny):
    built = build(tiny("llama"), PATHS["lean"])
    limits = SchedulerLimits(
        max_num_seqs=8, max_num_batched_tokens=64, max_model_len=64, block_size=16, num_blocks=built.num_blocks
    )
    scheduler = Scheduler(limits, eos_token_ids=frozenset())
    for number, (n, beams) in enumerate([(1, None), (2, None), (2, BeamSpec(2))]):
        spec = SamplingSpec(seed=number, beams=beams)
        job = GenerateJob(JobHeader(str(number), "t"), pack_ids(prompts(9)[0]), n, spec, StoppingSpec(max_tokens=6))
        request = Request.from_job(job, arrival=number)
        if number:
            request.customise(LOADER.load([ProcessorCall(f"{HERE}.{name}")]))
        scheduler.add(request)
    failures: dict[str, list[str]] = {}
    tokens = 0
    while scheduler.has_work():
        plan = scheduler.plan()
        for output in scheduler.commit(plan, built.runner.execute(plan)):
            tokens += len(output.token_ids) if output.request_id == "0" else 0
            if output.failure is not None:
                failures.setdefault(output.request_id, []).append(output.failure)
    kind = "RuntimeError" if name == "failing" else "TypeError"
    assert failures == {number: [f"{HERE}.{name} failed: {kind}"] for number in ("1", "2")}
    assert tokens == 6
    assert scheduler.stats().free_blocks == built.num_blocks


def test_beams_are_steered_too(lab):
    row = custom(lab, ProcessorCall(f"{HERE}.only_token_9"), beams=BeamSpec(2))
    drawn = lab.sampler().sample(lab.logits(1), [row])
    assert drawn.candidates[row][0].token_id == 9
    assert all(each.score == -torch.inf for each in drawn.candidates[row][1:])
