"""What the queue's job becomes in the engine."""

from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_worker.schedule.request import Request


def test_every_choice_shares_cached_prompts_only_under_its_requests_salt() -> None:
    job = GenerateJob(JobHeader("r", "q"), pack_ids([1, 2]), n=2, cache_salt="mine")
    request = Request.from_job(job, arrival=0)
    assert [sequence.cache_salt for sequence in request.sequences] == [b"mine", b"mine"]


def test_the_engine_knows_a_request_by_its_run() -> None:
    job = GenerateJob(JobHeader("r", "q"), pack_ids([1, 2]))
    request = Request.from_job(job, arrival=0, run_id="r/7")
    assert request.request_id == "r/7"
    assert [sequence.request_id for sequence in request.sequences] == ["r/7"]
