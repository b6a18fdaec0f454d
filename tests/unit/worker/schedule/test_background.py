"""Background requests beside others, on a machine whose time is computed."""

import random
from math import inf
from statistics import mean, median

import pytest
from virtual_time import VirtualMachine, p95, seconds_of

from headrace_worker.schedule.step_cost import Load
from headrace_worker.schedule.step_pace import PaceLimits

USERS, BATCH = "user", "batch"


def machine(lab, *, slack: float = 1.5, target_s: float = inf, **limits) -> VirtualMachine:
    sizes = {"max_num_seqs": 32, "max_num_batched_tokens": 512, "max_model_len": 2048, "block_size": 16}
    pace = PaceLimits(target_s=target_s, slack=slack)
    return VirtualMachine(lab.limits(**(sizes | {"num_blocks": 2048} | limits), pace=pace))


def add_users(run: VirtualMachine, lab, count: int, every_s: float) -> None:
    draw = random.Random(1)
    for i in range(count):
        prompt = [2 + draw.randrange(1000) for _ in range(draw.randrange(60, 200))]
        request = lab.request(f"{USERS}{i}", prompt, arrival=10**6 + i, max_tokens=40, ignore_eos=True)
        run.arrivals.append((draw.uniform(0.5, 1.5) * every_s * i, request))


def add_batch(run: VirtualMachine, lab, count: int, background: bool = True) -> None:
    draw = random.Random(2)
    for i in range(count):
        prompt = [2 + draw.randrange(1000) for _ in range(draw.randrange(60, 200))]
        name = f"{BATCH}{i}"
        request = lab.request(name, prompt, arrival=i, max_tokens=60, ignore_eos=True, background=background)
        run.arrivals.append((0.0, request))


@pytest.fixture(scope="module")
def quiet(lab) -> VirtualMachine:
    run = machine(lab)
    add_users(run, lab, 40, 4.0)
    run.run(250)
    return run


@pytest.fixture(scope="module")
def beside_a_batch(lab) -> VirtualMachine:
    run = machine(lab)
    add_users(run, lab, 40, 4.0)
    add_batch(run, lab, 1000)
    run.run(250)
    return run


def test_a_saturating_batch_hardly_delays_the_first_tokens_of_others(quiet, beside_a_batch) -> None:
    assert len(beside_a_batch.first_tokens_s(USERS)) == 40
    assert p95(beside_a_batch.first_tokens_s(USERS)) <= 1.15 * p95(quiet.first_tokens_s(USERS))


def test_a_saturating_batch_slows_down_the_others_by_the_slack_at_most(quiet, beside_a_batch) -> None:
    for typical in (mean, median):
        ratio = typical(beside_a_batch.gaps_s(USERS)) / typical(quiet.gaps_s(USERS))
        assert 1.05 < ratio <= 1.5


def test_each_step_keeps_to_the_slack_over_what_the_others_alone_would_cost(beside_a_batch) -> None:
    shared = 0
    for plan, seconds in beside_a_batch.steps[50:]:
        others, rest = Load(), 0
        for part in plan.slices:
            if part.sequence.background:
                rest += part.count
            else:
                others = others.plus(Load.of(part.start, part.count))
        if others != Load() and rest:
            shared += 1
            assert not others.prefill_tokens, "somebody's first token was delayed"
            assert seconds <= 1.5 * seconds_of(others) * 1.1
    assert shared > 100


def test_a_slack_of_one_leaves_the_others_as_they_are(lab, quiet) -> None:
    run = machine(lab, slack=1.0)
    add_users(run, lab, 40, 4.0)
    add_batch(run, lab, 1000)
    run.run(250)
    assert p95(run.gaps_s(USERS)) == pytest.approx(p95(quiet.gaps_s(USERS)), rel=0.05)


def test_with_nobody_else_a_batch_runs_exactly_as_any_other_requests_would(lab) -> None:
    runs = [machine(lab), machine(lab)]
    for run, background in zip(runs, (True, False), strict=True):
        add_batch(run, lab, 60, background)
        run.run(inf)
    assert dict(runs[0].told_s) == dict(runs[1].told_s)


def test_what_was_paused_goes_on_where_it_was_when_the_others_have_gone(lab) -> None:
    run = machine(lab, num_blocks=64, max_num_seqs=8)
    add_batch(run, lab, 20)
    for i in range(6):
        request = lab.request(f"{USERS}{i}", range(2 + i, 130 + i), arrival=100 + i, max_tokens=30, ignore_eos=True)
        run.arrivals.append((3.0, request))
    run.run(inf)
    assert run.scheduler.stats().preemptions > 0
    assert {run.tokens(f"{BATCH}{i}") >= 60 for i in range(20)} == {True}
    assert all(len(told) == 60 for name, told in run.told_s.items() if name.startswith(BATCH))


def test_the_room_for_others_does_not_shrink_by_background_requests_and_that_for_those_follows_their_use(lab) -> None:
    run = machine(lab, max_num_seqs=4, num_blocks=256)
    room = run.scheduler.room()
    assert (room.slots, room.background_slots) == (4, 4)
    for i in range(4):
        run.scheduler.add(lab.request(f"b{i}", range(2, 100), arrival=i, background=True, max_tokens=500))
    for _ in range(10):
        run._step()
    room = run.scheduler.room()
    assert (room.slots, room.background_slots) == (4, 0)
    assert room.tokens == 256 * 16 > room.background_tokens
    run.scheduler.add(lab.request("user", range(2, 50), arrival=9, max_tokens=50, ignore_eos=True))
    run._step()
    assert run.scheduler.room().slots == 3
    stats = run.scheduler.stats()
    assert (stats.running, stats.background_running, stats.background_paused) == (4, 0, 4)


def test_beside_others_background_requests_are_taken_in_one_by_one_until_one_is_held_back(lab) -> None:
    run = machine(lab, slack=1.3)
    run.scheduler.add(lab.request("user", range(2, 50), arrival=0, max_tokens=900, ignore_eos=True))
    taken = 0
    for _ in range(60):
        run._step()
        room = run.scheduler.room()
        assert room.background_slots <= 1
        if room.background_slots:
            request = lab.request(f"b{taken}", range(2, 100), arrival=taken + 1, background=True, max_tokens=900)
            run.scheduler.add(request)
            taken += 1
    stats = run.scheduler.stats()
    assert stats.background_running >= 2
    assert stats.background_paused == 1
    assert taken == stats.background_running + 1
