"""Guesses in plans: where they fit, what becomes of them, and what they must never cost."""

import pytest

from headrace_shared.protocol.event import FinishReason
from headrace_shared.protocol.sampling import BeamSpec
from headrace_worker.schedule.speculation.payoff import Payoff
from headrace_worker.schedule.step_cost import Load, StepCost


def test_right_guesses_come_with_one_token_more_in_one_step(lab):
    driver = lab.drive(lab.speculation(4, wrong_in=0, disable_by_batch_size=9))
    request = driver.add(lab.request("r", seed=3, max_tokens=11, ignore_eos=True))
    expected, _, _ = lab.undisturbed(request, 0, driver.limits.context_tokens)
    driver.run()
    assert [len(output.token_ids) for output in driver.outputs["r", 0]] == [1, 5, 5]
    assert driver.tokens("r") == expected
    stats = driver.scheduler.stats().speculation
    assert (stats.drafts, stats.draft_tokens, stats.accepted_tokens) == (2, 8, 8)
    assert stats.accepted_per_position == [2, 2, 2, 2]


def test_guesses_stop_before_what_would_end_the_answer(lab):
    driver = lab.drive(lab.speculation(6, wrong_in=0, disable_by_batch_size=9))
    request = driver.add(lab.request("r", seed=3, max_tokens=40))
    expected, reason, _ = lab.undisturbed(request, 0, driver.limits.context_tokens)
    assert reason is FinishReason.STOP
    driver.run()
    assert driver.tokens("r") == expected
    ended = driver.scheduler._speculation._proposer.ended_with
    assert ended == [[5, 6, 7, *expected]]
    guessed = sum(len(part.guesses) for plan in driver.plans for part in plan.slices)
    assert guessed == driver.scheduler.stats().speculation.accepted_tokens


def test_logprobs_are_told_of_every_token(lab):
    driver = lab.drive(lab.speculation(4, wrong_in=3, disable_by_batch_size=9))
    driver.add(lab.request("r", seed=3, max_tokens=20, ignore_eos=True, logprobs=0))
    driver.run()
    for output in driver.outputs["r", 0]:
        assert [entry.token_id for entry in output.logprobs] == output.token_ids


def test_guesses_never_displace_anybody(lab):
    """Blocks for two sequences as they are, and none for guesses."""
    driver = lab.drive(
        lab.speculation(4, wrong_in=2, disable_by_batch_size=9), block_size=1, num_blocks=26, max_num_batched_tokens=20
    )
    for name in "ab":
        driver.add(lab.request(name, arrival=ord(name), max_tokens=10, ignore_eos=True))
    driver.run()
    assert driver.scheduler.stats().preemptions == 0


def test_steps_with_prompts_have_no_guesses_and_the_budget_bounds_them(lab):
    driver = lab.drive(lab.speculation(4, wrong_in=2, disable_by_batch_size=9), max_num_batched_tokens=8)
    for arrival in range(3):
        driver.add(
            lab.request(f"r{arrival}", (2, 3, 4, 5, 6, 7 + arrival), arrival=arrival, max_tokens=12, seed=arrival)
        )
    driver.run()
    for plan in driver.plans:
        assert plan.num_tokens <= 8
        if any(part.count > 1 and not part.guesses for part in plan.slices):
            assert not any(part.guesses for part in plan.slices)


@pytest.mark.parametrize(("running", "guesses"), [(2, True), (3, False), (4, False)])
def test_a_fixed_batch_size_switches_it_off(lab, running, guesses):
    driver = lab.drive(lab.speculation(2, wrong_in=0, disable_by_batch_size=3))
    for arrival in range(running):
        driver.add(lab.request(f"r{arrival}", arrival=arrival, max_tokens=9, ignore_eos=True))
    for _ in range(4):
        driver.step()
    assert any(part.guesses for plan in driver.plans for part in plan.slices) is guesses


def test_beams_have_no_guesses_and_others_beside_them_do(lab):
    driver = lab.drive(lab.speculation(2, wrong_in=0, disable_by_batch_size=9))
    driver.add(lab.request("b", beams=BeamSpec(2), max_tokens=9, ignore_eos=True))
    driver.add(lab.request("r", arrival=1, max_tokens=30, ignore_eos=True))
    driver.run()
    beside = 0
    for plan in driver.plans:
        beams = [part for part in plan.slices if part.sequence.request_id == "b"]
        assert not any(part.guesses for part in beams)
        beside += bool(beams) and any(part.guesses for part in plan.slices)
    assert beside > 2


def test_a_failure_after_right_guesses_comes_after_their_tokens(lab):
    driver = lab.drive(lab.speculation(3, wrong_in=0, disable_by_batch_size=9))
    request = driver.add(lab.request("r", seed=3, max_tokens=30, ignore_eos=True))
    driver.step()
    scheduler = driver.scheduler
    plan = scheduler.plan()
    sampled = driver._execute(plan)
    sampled.failed[request.sequences[0]] = "broke"
    first, last = scheduler.commit(plan, sampled)
    assert (len(first.token_ids), first.failure, last.failure) == (3, None, "broke")
    assert not scheduler.has_work()


def learned(lab, base: float, per_row: float, right: int) -> tuple[Payoff, StepCost, list]:
    payoff, cost = Payoff(), StepCost()
    rows = [lab.request(f"r{i}").sequences[0] for i in range(16)]
    for _ in range(20):
        for sequence in rows:
            payoff.accepted(sequence, right, 4)
    for count in (1, 5, 16, 80) * 10:
        cost.note(decoding(count), base + per_row * count)
    return payoff, cost, rows


def decoding(rows: int) -> Load:
    return Load(decode_rows=rows, decode_context=200 * rows)


@pytest.mark.parametrize(
    ("batch", "right", "taken"),
    [(1, 4, 4), (16, 4, 4), (1, 2, 4), (16, 1, 0), (16, 0, 0)],
)
def test_guesses_are_taken_as_far_as_they_pay(lab, batch, right, taken):
    """20 ms for the weights and 2 ms for each row, as measured on two cores."""
    payoff, cost, rows = learned(lab, 20, 2, right)
    found = payoff.limit(dict.fromkeys(rows[:batch], 4), decoding(batch), cost)
    assert set(found.values()) == {taken}


def test_what_does_not_pay_is_tried_again_now_and_then(lab):
    payoff, cost, rows = learned(lab, 1, 10, 0)
    tries = [payoff.limit({rows[0]: 4}, decoding(1), cost)[rows[0]] for _ in range(200)]
    assert sorted(set(tries)) == [0, 1]
    assert tries.count(1) == 3


def test_as_long_as_nothing_is_known_of_steps_all_guesses_are_taken(lab):
    rows = [lab.request().sequences[0]]
    assert Payoff().limit({rows[0]: 4}, decoding(1), StepCost()) == {rows[0]: 4}


def test_a_step_of_guesses_has_the_load_of_so_many_rows(lab):
    driver = lab.drive(lab.speculation(4, wrong_in=0, disable_by_batch_size=9))
    driver.add(lab.request("r", seed=3, max_tokens=11, ignore_eos=True))
    driver.run()
    assert [plan.load for plan in driver.plans[1:]] == [
        Load(0, 5, 4 + 5 + 6 + 7 + 8),
        Load(0, 5, 9 + 10 + 11 + 12 + 13),
    ]


def test_background_sequences_have_guesses_when_they_are_alone(lab):
    driver = lab.drive(lab.speculation(2, wrong_in=0, disable_by_batch_size=9))
    driver.add(lab.request("b", background=True, max_tokens=30, ignore_eos=True))
    driver.step(), driver.step()
    assert driver.plans[-1].slices[0].guesses
    driver.add(lab.request("f", arrival=1, max_tokens=12, ignore_eos=True))
    driver.run()
    for plan in driver.plans:
        both = {part.sequence.background for part in plan.slices} == {False, True}
        assert not (both and any(part.guesses for part in plan.slices if part.sequence.background))
