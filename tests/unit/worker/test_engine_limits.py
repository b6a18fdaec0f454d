"""What an operator says of steps, blocks and prompts, as the scheduler gets it."""

from math import inf

import pytest

from headrace_worker.engine.build import EngineSetupError, build_engine
from headrace_worker.schedule.prefill_shares import PrefillLimits
from headrace_worker.schedule.scheduler import SchedulerLimits
from headrace_worker.schedule.step_pace import PaceLimits
from headrace_worker.settings import WorkerSettings


def limits(**settings: object) -> SchedulerLimits:
    return build_engine(WorkerSettings(model="simulated", engine="simulated", **settings)).limits  # type: ignore[arg-type]


def test_a_target_and_a_slack_are_kept_as_they_were_said() -> None:
    assert limits(target_step_ms=250, interactive_itl_slack=2).pace == PaceLimits(0.25, 2)
    assert limits(target_step_ms=0).pace == PaceLimits(inf, 1.5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, PrefillLimits(1, 1, 0)),
        ({"max_num_partial_prefills": 4}, PrefillLimits(4, 1, 80)),
        ({"max_num_partial_prefills": 4, "max_long_partial_prefills": 2}, PrefillLimits(4, 2, 80)),
        ({"long_prefill_token_threshold": 300}, PrefillLimits(1, 1, 300)),
    ],
)
def test_prompts_are_long_beyond_a_share_of_the_context_unless_it_is_said(settings, expected) -> None:
    assert limits(max_model_len=2000, **settings).prefills == expected


def test_the_number_of_blocks_can_be_set_and_bounds_the_context() -> None:
    assert limits(num_gpu_blocks_override=40, block_size=16).num_blocks == 40
    assert limits(num_gpu_blocks_override=40, block_size=16).context_tokens == 640


def test_limits_that_contradict_each_other_are_refused_in_a_line_for_the_operator() -> None:
    with pytest.raises(EngineSetupError, match=r"max_long_partial_prefills \(3\) must not be above"):
        limits(max_num_partial_prefills=2, max_long_partial_prefills=3)
