"""Prompts beside sequences that decode, within a time for each step."""

from math import inf

import pytest
from virtual_time import VirtualMachine, p95

from headrace_worker.schedule.prefill_shares import PrefillLimits
from headrace_worker.schedule.step_pace import PaceLimits


def machine(lab, target_s: float, **limits) -> VirtualMachine:
    sizes = {"max_num_seqs": 32, "max_num_batched_tokens": 512, "max_model_len": 8192, "block_size": 16}
    return VirtualMachine(lab.limits(**(sizes | {"num_blocks": 4096} | limits), pace=PaceLimits(target_s=target_s)))


def with_long_prompts_beside_decodes(lab, target_s: float) -> VirtualMachine:
    run = machine(lab, target_s)
    for i in range(2):
        request = lab.request(f"chat{i}", range(2 + i, 60 + i), arrival=i, max_tokens=400, ignore_eos=True)
        run.arrivals.append((0.0, request))
    for i in range(3):
        request = lab.request(f"long{i}", [(7 * i + k) % 500 for k in range(4000)], arrival=9 + i, max_tokens=1)
        run.arrivals.append((2.0, request))
    run.run(inf)
    return run


def test_decodes_do_not_stall_behind_long_prompts_and_those_are_computed_nearly_as_fast(lab) -> None:
    paced, unpaced = (with_long_prompts_beside_decodes(lab, target_s) for target_s in (0.2, inf))
    assert p95(unpaced.gaps_s("chat")) > 1
    assert p95(paced.gaps_s("chat")) < 0.25
    took, takes = (max(run.first_tokens_s("long")) for run in (unpaced, paced))
    assert took / takes > 0.85


def test_a_prompt_alone_is_computed_in_chunks_as_large_as_the_budget_whatever_the_target(lab) -> None:
    run = machine(lab, 0.05)
    for i in range(3):
        run.arrivals.append((0.0, lab.request(f"p{i}", [(i + k) % 500 for k in range(2000)], arrival=i, max_tokens=1)))
    run.run(inf)
    assert {plan.num_tokens for plan, _ in run.steps[:-1]} == {512}


def test_a_prompt_goes_on_although_the_decodes_alone_take_longer_than_the_target(lab) -> None:
    run = machine(lab, 0.01)
    run.arrivals.append((0.0, lab.request("chat", range(2, 60), arrival=0, max_tokens=500, ignore_eos=True)))
    run.arrivals.append((1.0, lab.request("late", range(2, 400), arrival=1, max_tokens=1)))
    run.run(inf)
    assert run.first_tokens_s("late")
    assert run.told_s["late"][0] < run.told_s["chat"][-1]


def prompts_of_each_step(lab, limits: PrefillLimits, *lengths: int, steps: int) -> list[dict[str, int]]:
    driver = lab.drive(max_num_batched_tokens=16, prefills=limits)
    for arrival, length in enumerate(lengths):
        driver.add(
            lab.request("abcdef"[arrival], range(2 + arrival, 2 + arrival + length), arrival=arrival, max_tokens=1)
        )
    for _ in range(steps):
        driver.step()
    return [{part.sequence.request_id: part.count for part in plan.slices} for plan in driver.plans]


@pytest.mark.parametrize(
    ("limits", "lengths", "steps"),
    [
        (PrefillLimits(), (20, 20), [{"a": 16}, {"a": 4, "b": 12}]),
        (PrefillLimits(2), (20, 20), [{"a": 8, "b": 8}, {"a": 8, "b": 8}]),
        (PrefillLimits(2), (40, 6, 40), [{"a": 10, "b": 6}, {"a": 8, "c": 8}]),
        (PrefillLimits(3), (40, 2, 40), [{"a": 7, "b": 2, "c": 7}, {"a": 8, "c": 8}]),
        (PrefillLimits(2), (3, 3, 8), [{"a": 3, "b": 3, "c": 8}]),
        (PrefillLimits(2, 1, 30), (40, 40, 20), [{"a": 8, "c": 8}, {"a": 8, "c": 8}]),
        (PrefillLimits(2, 1, 30), (40, 40, 8), [{"a": 8, "c": 8}, {"a": 16}]),
        (PrefillLimits(2, 2, 30), (40, 40, 8), [{"a": 8, "b": 8}, {"a": 8, "b": 8}]),
    ],
)
def test_prompts_share_a_step_as_the_limits_say(lab, limits, lengths, steps) -> None:
    assert prompts_of_each_step(lab, limits, *lengths, steps=len(steps)) == steps


def test_limits_on_prompts_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_long_partial_prefills \(3\)"):
        PrefillLimits(2, 3)
    with pytest.raises(ValueError, match="at least 1"):
        PrefillLimits(0)
    with pytest.raises(ValueError, match="slack"):
        PaceLimits(slack=0.9)
    with pytest.raises(ValueError, match="above 0"):
        PaceLimits(target_s=0)
