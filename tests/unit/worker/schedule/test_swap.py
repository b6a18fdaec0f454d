"""Blocks of sequences that had to make room wait in the host's memory, and come back as they were."""

import pytest

from headrace_shared.protocol.sampling import BeamSpec
from headrace_worker.schedule.request import SequenceState
from headrace_worker.schedule.swap import Swaps, SwapSpace


def computed(driver, name, choice=0):
    """How many tokens were computed of a sequence, again ones included."""
    parts = [part for plan in driver.plans for part in plan.slices]
    return sum(p.count for p in parts if (p.sequence.request_id, p.sequence.choice) == (name, choice))


def out_and_back(driver):
    return [sum(len(getattr(plan.swaps, way)) for plan in driver.plans) for way in ("out", "back")]


def short_of_blocks(lab, **limits):
    """Two requests that fit side by side only at their beginning."""
    driver = lab.drive(**{"num_blocks": 6, "max_model_len": 24, "enable_prefix_caching": False, **limits})
    for arrival, name in enumerate("ab"):
        driver.add(lab.request(name, range(2, 10), arrival=arrival, seed=arrival, max_tokens=12, ignore_eos=True))
    driver.run()
    assert driver.scheduler.stats().preemptions > 0
    return driver


def test_a_sequence_that_had_to_make_room_goes_on_where_it_was(lab):
    driver = short_of_blocks(lab, swap_blocks=6)
    expected = short_of_blocks(lab)
    for name in "ab":
        assert driver.tokens(name) == expected.tokens(name)
        assert computed(driver, name) == 8 + 12 - 1
    assert computed(expected, "b") > 8 + 12 - 1
    out, back = out_and_back(driver)
    assert out == back > 0


@pytest.mark.parametrize(("places", "saved"), [(1, 4), (2, 8)])
def test_what_the_swap_space_does_not_hold_is_computed_again(places, saved, lab):
    nothing, something = short_of_blocks(lab), short_of_blocks(lab, swap_blocks=places)
    assert something.scheduler.stats().preemptions == nothing.scheduler.stats().preemptions == 1
    assert computed(nothing, "b") - computed(something, "b") == saved
    assert out_and_back(something) == [places, places]


def test_blocks_that_the_prefix_cache_still_has_are_not_copied_back(lab):
    driver = lab.drive(max_num_seqs=1, swap_blocks=9)
    driver.add(lab.request("low", range(2, 12), priority=1, max_tokens=4, ignore_eos=True))
    driver.step()
    driver.add(lab.request("urgent", [2], arrival=1, max_tokens=1))
    driver.run()
    # Of ten tokens the first two blocks are full, and can be found.
    assert out_and_back(driver) == [3, 1]
    assert computed(driver, "low") == 10 + 4 - 1


def test_blocks_that_somebody_else_has_too_are_not_copied(lab):
    driver = lab.drive(max_num_seqs=3, num_blocks=40, swap_blocks=40)
    choices = driver.add(lab.request("r", range(2, 14), n=3, priority=1, max_tokens=9, ignore_eos=True)).sequences
    driver.step()
    driver.step()
    shared, own = set(choices[0].block_table[:2]), set(choices[2].block_table)
    assert shared < own
    driver.add(lab.request("urgent", [2], arrival=1, max_tokens=1))
    driver.step()
    assert {block for block, _ in driver.plans[-1].swaps.out} == own - shared
    driver.run()
    assert computed(driver, "r", 2) == computed(driver, "r", 1)


def test_the_places_of_a_sequence_that_ends_while_it_waits_are_free(lab):
    driver = lab.drive(max_num_seqs=1, swap_blocks=9)
    low = driver.add(lab.request("low", range(2, 12), priority=1, max_tokens=4, ignore_eos=True))
    driver.step()
    driver.add(lab.request("urgent", [2], arrival=1, max_tokens=5, ignore_eos=True))
    driver.step()
    stats = driver.scheduler.stats()
    assert (stats.swapped, stats.free_swap_blocks, stats.total_swap_blocks) == (1, 6, 9)
    assert low.sequences[0].state is SequenceState.WAITING
    driver.scheduler.abort("low")
    driver.check_blocks()
    assert (driver.scheduler.stats().swapped, driver.scheduler.stats().free_swap_blocks) == (0, 9)
    driver.run()


def test_a_beam_that_waits_for_others_keeps_what_it_has_computed(lab):
    options = {"num_blocks": 12, "block_size": 4, "enable_prefix_caching": False, "max_model_len": 32}
    found = []
    for places in (0, 40):
        driver = lab.drive(swap_blocks=places, **options)
        for arrival in range(2):
            request = lab.request(
                f"r{arrival}", range(2, 12), arrival=arrival, n=4, beams=BeamSpec(4), max_tokens=12, ignore_eos=True
            )
            driver.add(request)
        driver.run()
        assert driver.scheduler.stats().preemptions > 0
        answers = [driver.tokens(f"r{arrival}", choice) for arrival in range(2) for choice in range(4)]
        found.append((answers, sum(plan.num_tokens for plan in driver.plans)))
    (without, all_again), (with_swap, less) = found
    assert with_swap == without
    assert less < all_again


@pytest.fixture
def sequence(lab):
    made = lab.request("r", range(2, 12)).sequences[0]
    made.num_computed = 10
    return made


def test_whoever_comes_back_and_has_to_go_again_in_one_plan_is_copied_nowhere(sequence):
    swap = SwapSpace(4)
    swap.keep(sequence, {0: 7, 1: 8, 2: 9})
    assert swap.take() == (Swaps([(7, 0), (8, 1), (9, 2)], []), [])
    assert swap.bring_back(sequence, 0, [3, 4, 5]) == 10
    swap.keep(sequence, {0: 3, 1: 4, 2: 5})
    assert swap.take() == (Swaps([], []), [])
    assert swap.bring_back(sequence, 0, [5, 6, 7]) == 10
    assert swap.free == 1
    assert swap.take() == (Swaps([], [(0, 5), (1, 6), (2, 7)]), [sequence])
    assert swap.free == 4


def test_a_place_that_a_plan_reads_is_written_by_no_one_else_in_it(sequence, lab):
    other = lab.request("other").sequences[0]
    swap = SwapSpace(3)
    swap.keep(sequence, {0: 7, 1: 8})
    swap.take()
    swap.bring_back(sequence, 0, [3, 4])
    swap.keep(other, {0: 1, 1: 2})
    assert swap.take() == (Swaps([(1, 2)], [(0, 3), (1, 4)]), [sequence])


def test_what_lies_behind_a_gap_is_given_up(sequence):
    swap = SwapSpace(4)
    swap.keep(sequence, {1: 8, 2: 9})
    swap.take()
    assert (swap.found(sequence, 0), swap.found(sequence, 1)) == (0, 2)
    swap.bring_back(sequence, 0, [])
    assert swap.take() == (Swaps([], []), [sequence])
    assert (swap.free, swap.sequences) == (4, 0)
