import pytest

from headrace_shared.protocol.event import FinishReason
from headrace_worker.schedule.request import SequenceState


def shape(plan):
    """(request, choice, start, count, samples) of each slice."""
    return [(p.sequence.request_id, p.sequence.choice, p.start, p.count, p.samples) for p in plan.slices]


def test_a_long_prompt_is_computed_in_chunks_and_only_the_last_one_samples(lab):
    driver = lab.drive(max_num_batched_tokens=8)
    driver.add(lab.request("a", range(2, 22), max_tokens=2))
    driver.run()
    assert [shape(plan)[0][2:] for plan in driver.plans] == [
        (0, 8, False),
        (8, 8, False),
        (16, 4, True),
        (20, 1, True),
    ]


def test_decodes_come_first_and_prompts_share_what_is_left_of_the_budget(lab):
    driver = lab.drive(max_num_batched_tokens=8)
    driver.add(lab.request("early", [2, 3], max_tokens=9, ignore_eos=True))
    driver.step()
    driver.add(lab.request("late", range(2, 14), arrival=1))
    driver.step()
    assert shape(driver.plans[-1]) == [("early", 0, 2, 1, True), ("late", 0, 0, 7, False)]


def test_waiting_requests_are_admitted_by_priority_and_then_by_arrival(lab):
    driver = lab.drive(max_num_seqs=1, max_num_batched_tokens=4)
    for arrival, priority in enumerate([1, 0, 1, -5]):
        driver.add(lab.request(f"p{priority}a{arrival}", arrival=arrival, priority=priority, max_tokens=1))
    driver.run()
    assert [shape(plan)[0][0] for plan in driver.plans] == ["p-5a3", "p0a1", "p1a0", "p1a2"]


def test_a_small_request_never_passes_a_big_one_that_does_not_fit_yet(lab):
    driver = lab.drive(num_blocks=8, max_model_len=32)
    driver.add(lab.request("running", range(2, 14), max_tokens=12, ignore_eos=True))
    driver.step()
    driver.add(lab.request("big", range(2, 22), arrival=1, seed=1, prompt_logprobs=0, max_tokens=1))
    driver.add(lab.request("small", [2], arrival=2, max_tokens=1))
    driver.run()
    admitted = [part.sequence.request_id for plan in driver.plans for part in plan.slices if part.start == 0]
    assert admitted == ["running", "big", "small"]


def test_a_more_urgent_request_takes_the_slot_of_the_least_urgent_one(lab):
    driver = lab.drive(max_num_seqs=2)
    low = driver.add(lab.request("low", priority=5, arrival=0, max_tokens=9, ignore_eos=True)).sequences[0]
    driver.add(lab.request("mid", priority=1, arrival=1, max_tokens=9, ignore_eos=True))
    driver.step()
    driver.add(lab.request("urgent", priority=0, arrival=2, max_tokens=2, ignore_eos=True))
    driver.step()
    assert [part.sequence.request_id for part in driver.plans[-1].slices] == ["mid", "urgent"]
    assert low.state is SequenceState.WAITING
    driver.run()
    assert driver.scheduler.stats().preemptions == 1
    assert len(driver.tokens("low")) == 9


def test_a_request_of_the_same_priority_waits_for_a_slot(lab):
    driver = lab.drive(max_num_seqs=1)
    driver.add(lab.request("late", arrival=7, max_tokens=3, ignore_eos=True))
    driver.step()
    driver.add(lab.request("early", arrival=1, max_tokens=1))
    driver.run()
    assert driver.scheduler.stats().preemptions == 0


def test_a_more_urgent_request_takes_the_place_of_a_decode_that_fills_the_whole_step(lab):
    driver = lab.drive(max_num_seqs=2, max_num_batched_tokens=2)
    for arrival in range(2):
        driver.add(lab.request(f"r{arrival}", [2], arrival=arrival, priority=1, max_tokens=9, ignore_eos=True))
    driver.step()
    driver.add(lab.request("urgent", [2, 3], arrival=2, max_tokens=1))
    driver.step()
    assert shape(driver.plans[-1]) == [("r0", 0, 1, 1, True), ("urgent", 0, 0, 1, False)]


def test_when_blocks_run_out_the_last_by_priority_and_arrival_is_preempted_and_computes_its_tokens_again(lab):
    driver = lab.drive(num_blocks=6, max_model_len=24, enable_prefix_caching=False)
    for arrival, name in enumerate("ab"):
        driver.add(lab.request(name, [2, 3, 4, 5], arrival=arrival, max_tokens=12, ignore_eos=True))
    driver.run()
    assert driver.scheduler.stats().preemptions == 1
    restart = next(part for plan in driver.plans for part in plan.slices if part.start == 0 and part.count > 4)
    assert restart.sequence.request_id == "b"
    assert len(driver.tokens("a")) == len(driver.tokens("b")) == 12


def test_a_second_request_computes_only_what_follows_the_shared_full_blocks(lab):
    driver = lab.drive()
    first = driver.add(lab.request("a", range(2, 12), max_tokens=1))
    driver.run()
    second = driver.add(lab.request("b", [*range(2, 12), 20, 21], arrival=1, max_tokens=1))
    driver.run()
    assert (first.cached_tokens, second.cached_tokens) == (0, 8)
    assert shape(driver.plans[-1]) == [("b", 0, 8, 4, True)]
    stats = driver.scheduler.stats()
    assert (stats.prefix_queried_tokens, stats.prefix_hit_tokens) == (22, 8)


def test_a_prompt_that_is_cached_whole_still_computes_its_last_block(lab):
    driver = lab.drive()
    for arrival, name in enumerate("ab"):
        driver.add(lab.request(name, range(2, 10), arrival=arrival, max_tokens=1))
        driver.run()
    assert shape(driver.plans[-1]) == [("b", 0, 4, 4, True)]


def test_a_preempted_request_reports_the_cached_tokens_of_its_first_admission(lab):
    driver = lab.drive(max_num_seqs=1)
    low = driver.add(lab.request("low", range(2, 12), priority=1, max_tokens=9, ignore_eos=True))
    driver.step()
    driver.add(lab.request("urgent", [2], arrival=1, max_tokens=1))
    driver.run()
    assert driver.scheduler.stats().preemptions == 1
    assert low.cached_tokens == 0


def test_with_prefix_caching_off_nothing_is_shared(lab):
    driver = lab.drive(enable_prefix_caching=False)
    for arrival, name in enumerate("ab"):
        driver.add(lab.request(name, range(2, 12), arrival=arrival, max_tokens=1))
        driver.run()
    assert shape(driver.plans[-1]) == [("b", 0, 0, 10, True)]


def test_the_other_choices_wait_for_the_first_and_share_its_prompt(lab):
    driver = lab.drive(max_num_batched_tokens=8)
    request = driver.add(lab.request("a", range(2, 12), n=3, max_tokens=2, ignore_eos=True))
    driver.step()
    driver.step()
    assert [sequence.state for sequence in request.sequences[1:]] == [SequenceState.WAITING] * 2
    driver.step()
    assert shape(driver.plans[2]) == [("a", 0, 10, 1, True), ("a", 1, 8, 2, True), ("a", 2, 8, 2, True)]
    tables = [sequence.block_table for sequence in request.sequences[1:]]
    assert tables[0][:2] == tables[1][:2]
    assert tables[0][2] != tables[1][2]


def test_the_other_choices_go_on_when_the_first_one_is_ended_before_its_prompt_is_computed(lab):
    driver = lab.drive()
    driver.add(lab.request("a", n=2, max_tokens=2, ignore_eos=True))
    assert driver.scheduler.finish("a", 0)
    driver.run()
    assert (driver.tokens("a", 0), len(driver.tokens("a", 1))) == ([], 2)


def test_a_continued_request_counts_the_tokens_of_the_earlier_attempt(lab):
    driver = lab.drive()
    request = lab.request("a", n=3, resumed={0: [9, 9], 2: [8]}, finished={1}, max_tokens=4, ignore_eos=True)
    driver.add(request)
    driver.run()
    assert [sequence.choice for sequence in request.sequences] == [0, 2]
    assert (len(driver.tokens("a", 0)), len(driver.tokens("a", 2))) == (2, 3)


def test_a_request_without_output_ends_with_length_once_its_prompt_is_computed(lab):
    driver = lab.drive(max_num_batched_tokens=4)
    driver.add(lab.request("a", range(2, 8), max_tokens=0, prompt_logprobs=1))
    driver.run()
    (output,) = driver.outputs["a", 0]
    assert (output.token_ids, output.finish_reason, output.first) == ([], FinishReason.LENGTH, True)
    assert len(output.prompt_logprobs) == 6
    assert not any(part.samples for plan in driver.plans for part in plan.slices)


def test_scoring_a_prompt_reads_nothing_from_the_prefix_cache(lab):
    driver = lab.drive()
    for arrival, name in enumerate("ab"):
        driver.add(lab.request(name, range(2, 12), arrival=arrival, max_tokens=1, prompt_logprobs=0))
        driver.run()
    assert len(driver.last("b").prompt_logprobs) == 10


@pytest.mark.parametrize(
    ("stopping", "expected"),
    [
        ({}, (FinishReason.STOP, None, 2)),
        ({"stop_token_ids": (1,)}, (FinishReason.STOP, None, 2)),
        ({"ignore_eos": True, "stop_token_ids": (1,)}, (FinishReason.STOP, 1, 2)),
        ({"stop_token_ids": (14,)}, (FinishReason.STOP, 14, 1)),
        ({"stop_token_ids": (14,), "min_tokens": 2}, (FinishReason.STOP, None, 2)),
        ({"ignore_eos": True}, (FinishReason.LENGTH, None, 5)),
        ({"min_tokens": 3}, (FinishReason.LENGTH, None, 5)),
        ({"max_tokens": 1}, (FinishReason.LENGTH, None, 1)),
        ({"max_tokens": 2}, (FinishReason.STOP, None, 2)),
    ],
)
def test_end_of_text_comes_before_stop_tokens_and_both_before_length(lab, stopping, expected):
    scheduler = lab.drive().scheduler
    scheduler.add(lab.request("a", **({"max_tokens": 5} | stopping)))
    outputs = []
    # The model says 14, then end-of-text (1), then 14 for ever.
    for token in (14, 1, 14, 14, 14):
        if scheduler.has_work():
            plan = scheduler.plan()
            outputs += scheduler.commit(plan, lab.sampled(token))
    assert (outputs[-1].finish_reason, outputs[-1].stop_reason, len(outputs)) == expected


def test_an_output_longer_than_the_context_ends_with_length(lab):
    driver = lab.drive(max_model_len=8)
    driver.add(lab.request("a", max_tokens=100, ignore_eos=True))
    driver.run()
    assert (len(driver.tokens("a")), driver.last("a").finish_reason) == (5, FinishReason.LENGTH)


def test_an_output_longer_than_all_blocks_ends_with_length(lab):
    driver = lab.drive(num_blocks=3)
    driver.add(lab.request("a", max_tokens=100, ignore_eos=True))
    driver.run()
    assert (len(driver.tokens("a")), driver.last("a").finish_reason) == (9, FinishReason.LENGTH)


@pytest.mark.parametrize(
    ("limits", "request_", "message"),
    [
        ({"max_model_len": 8}, {"prompt": range(2, 10)}, "the prompt has 8 tokens, and this engine holds 8"),
        ({"num_blocks": 2}, {"prompt": range(2, 10)}, "the prompt has 8 tokens, and this engine holds 8"),
        ({"max_model_len": 7}, {"prompt": range(2, 10), "max_tokens": 0}, "holds 7"),
        ({}, {"finished": {0}}, "no choice left"),
    ],
)
def test_what_can_never_run_is_refused_and_leaves_nothing_behind(lab, limits, request_, message):
    driver = lab.drive(**limits)
    with pytest.raises(ValueError, match=message):
        driver.scheduler.add(lab.request("a", **request_))
    assert not driver.scheduler.has_work()


def test_an_id_that_is_running_is_refused_and_may_come_back_later(lab):
    driver = lab.drive()
    driver.scheduler.add(lab.request("a"))
    with pytest.raises(ValueError, match="already running"):
        driver.scheduler.add(lab.request("a", arrival=1))
    assert driver.scheduler.abort("a")
    assert not driver.scheduler.abort("a")
    driver.add(lab.request("a", arrival=2))
    driver.run()


def test_an_empty_prompt_is_refused(lab):
    with pytest.raises(ValueError, match="no tokens"):
        lab.request("a", [])


def test_limits_that_contradict_each_other_are_refused(lab):
    with pytest.raises(ValueError, match="max_num_batched_tokens"):
        lab.limits(max_num_seqs=9, max_num_batched_tokens=8)
    with pytest.raises(ValueError, match="at least 1"):
        lab.limits(num_blocks=0)


def test_room_counts_what_waiting_and_running_sequences_need(lab):
    driver = lab.drive(num_blocks=16)
    room = driver.scheduler.room()
    assert (room.slots, room.tokens) == (4, 64)
    driver.add(lab.request("a", range(2, 12), n=2, max_tokens=5, ignore_eos=True))
    room = driver.scheduler.room()
    assert (room.slots, room.tokens) == (2, 52)
    driver.step()
    # Three blocks used, one to grow into, three for the second choice.
    assert driver.scheduler.room().tokens == (16 - 3 - 1 - 3) * 4


def test_a_newcomer_is_admitted_only_when_every_running_sequence_can_still_grow(lab):
    driver = lab.drive(num_blocks=6, max_model_len=24)
    driver.add(lab.request("a", [2, 3, 4, 5], max_tokens=12, ignore_eos=True))
    driver.step()
    newcomer = driver.add(lab.request("b", range(6, 22), arrival=1, max_tokens=1)).sequences[0]
    driver.step()
    assert newcomer.state is SequenceState.WAITING
    driver.run()
    assert driver.scheduler.stats().preemptions == 0


def test_a_background_request_makes_room_for_any_other_one_whatever_their_priorities_and_loses_nothing(lab):
    driver = lab.drive(max_num_seqs=1)
    driver.add(lab.request("batch", priority=-9, background=True, max_tokens=9, ignore_eos=True))
    driver.step()
    driver.add(lab.request("user", arrival=1, priority=9, max_tokens=2, ignore_eos=True))
    driver.step()
    assert [part.sequence.request_id for part in driver.plans[-1].slices] == ["user"]
    driver.run()
    assert (len(driver.tokens("user")), len(driver.tokens("batch"))) == (2, 9)


def test_a_more_urgent_request_takes_the_blocks_of_less_urgent_ones_in_the_same_step(lab):
    driver = lab.drive(num_blocks=8, max_model_len=32)
    for arrival, priority in enumerate([2, 1]):
        name = f"p{priority}"
        driver.add(
            lab.request(name, range(2 + arrival, 13 + arrival), arrival=arrival, priority=priority, max_tokens=8)
        )
    driver.step()
    driver.add(lab.request("urgent", range(40, 54), arrival=2, max_tokens=2, ignore_eos=True))
    driver.step()
    # Eight blocks: both have three; the newcomer needs four, and one more for each to grow into.
    assert [part.sequence.request_id for part in driver.plans[-2].slices] == ["p1", "p2"]
    assert [part.sequence.request_id for part in driver.plans[-1].slices] == ["p1", "urgent"]
    driver.run()
    assert driver.scheduler.stats().preemptions >= 1
