"""The model of what steps cost, against machines whose cost is known."""

import random
from collections.abc import Callable

import pytest

from headrace_worker.schedule.step_cost import Load, StepCost

Machine = Callable[[Load], float]


def two_cores(load: Load) -> float:
    """Seconds of a step, about as two cores take for the demo model."""
    return (
        0.022
        + 0.0023 * load.prefill_tokens
        + 0.003 * load.decode_rows
        + 4e-6 * load.decode_context
        + 1e-7 * load.prefill_context
    )


def a_load(draw: random.Random) -> Load:
    load = Load()
    for _ in range(draw.choice([0, 1, 2, 4, 8, 16])):
        load = load.plus(Load.of(draw.randrange(20, 2000), 1))
    if draw.random() < 0.4 or load == Load():
        load = load.plus(Load.of(draw.choice([0, 512, 2048]), draw.choice([16, 64, 128, 256])))
    return load


def taught(machine: Machine, steps: int, *, noise: float = 0.0, outliers: float = 0.0, seed: int = 7) -> StepCost:
    draw, cost = random.Random(seed), StepCost()
    for _ in range(steps):
        load = a_load(draw)
        seconds = machine(load) * draw.uniform(1 - noise, 1 + noise)
        cost.note(load, seconds * 20 if draw.random() < outliers else seconds)
    return cost


def worst_error(cost: StepCost, machine: Machine) -> float:
    draw = random.Random(99)
    loads = [a_load(draw) for _ in range(200)]
    return max(abs(cost.seconds(load) / machine(load) - 1) for load in loads)


def test_the_load_of_a_chunk_counts_each_pair_of_tokens_that_it_attends_to() -> None:
    assert Load.of(2, 3) == Load(prefill_tokens=3, prefill_context=3 + 4 + 5)
    assert Load.of(9, 1) == Load(decode_rows=1, decode_context=10)
    assert Load.of(2, 3).plus(Load.of(9, 1)).minus(Load.of(2, 3)) == Load.of(9, 1)


def test_nothing_is_said_of_a_machine_that_was_not_watched_yet() -> None:
    assert StepCost().seconds(Load.of(0, 8)) is None


@pytest.mark.parametrize(("noise", "outliers", "allowed"), [(0.0, 0.0, 0.02), (0.2, 0.0, 0.12), (0.1, 0.02, 0.25)])
def test_what_a_step_costs_is_learned_from_steps_however_unsteady_the_machine(
    noise: float, outliers: float, allowed: float
) -> None:
    cost = taught(two_cores, 1500, noise=noise, outliers=outliers)
    assert worst_error(cost, two_cores) < allowed


def test_no_term_is_ever_negative_so_that_more_work_never_seems_cheaper() -> None:
    draw = random.Random(3)
    cost = StepCost()
    for _ in range(300):
        cost.note(a_load(draw), draw.uniform(0.01, 0.5))
    small = Load.of(10, 1)
    for more in (Load.of(10, 1), Load.of(2000, 1), Load.of(0, 64), Load.of(4000, 64)):
        assert cost.seconds(small.plus(more)) >= cost.seconds(small) >= 0


def test_what_few_rows_cost_is_still_known_after_a_long_time_of_many() -> None:
    cost = taught(two_cores, 400)
    many = Load()
    for _ in range(12):
        many = many.plus(Load.of(300, 1))
    for _ in range(2000):
        cost.note(many, two_cores(many))
    one = Load.of(300, 1)
    assert cost.seconds(one) == pytest.approx(two_cores(one), rel=0.1)


def test_a_machine_that_becomes_slower_is_learned_anew() -> None:
    cost = taught(two_cores, 1000)
    draw = random.Random(11)
    for _ in range(1500):
        load = a_load(draw)
        cost.note(load, 3 * two_cores(load))
    assert worst_error(cost, lambda load: 3 * two_cores(load)) < 0.1


def test_equal_steps_lead_to_equal_answers() -> None:
    loads = [Load.of(200, 1), Load.of(100, 64)]
    one, other = (taught(two_cores, 300, noise=0.3, outliers=0.05) for _ in range(2))
    assert [one.seconds(load) for load in loads] == [other.seconds(load) for load in loads]


def test_memory_and_work_stay_bounded_whatever_sizes_come() -> None:
    draw = random.Random(5)
    cost = StepCost()
    for _ in range(3000):
        cost.note(Load(*(draw.randrange(10**6) for _ in range(4))), draw.uniform(0.001, 1))
    assert len(cost._cells) <= 128
