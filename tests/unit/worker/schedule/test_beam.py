"""A beam search finds the same answers whatever happens around it, and holds no block too many."""

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_shared.protocol.event import FinishReason
from headrace_shared.protocol.sampling import BeamSpec

SEARCHES = st.fixed_dictionaries(
    {
        "prompt": st.lists(st.integers(2, 3), min_size=1, max_size=20),
        "priority": st.integers(-1, 1),
        "seed": st.integers(0, 5),
        "beams": st.builds(BeamSpec, st.integers(1, 5), st.sampled_from([1.0, 0.0, 3.0, -1.0])),
        "max_tokens": st.integers(1, 14),
        "min_tokens": st.integers(0, 3),
        "stop_token_ids": st.sampled_from([(), (7,), (7, 8, 9)]),
        "ignore_eos": st.booleans(),
        "prompt_logprobs": st.sampled_from([None, 0]),
        "at_step": st.integers(0, 9),
    }
)
PLAIN = st.fixed_dictionaries(
    {
        "prompt": st.lists(st.integers(2, 3), min_size=1, max_size=20),
        "priority": st.integers(-1, 1),
        "seed": st.integers(0, 5),
        "n": st.integers(1, 3),
        "max_tokens": st.integers(0, 14),
        "at_step": st.integers(0, 9),
    }
)
REQUESTS = st.lists(st.one_of(SEARCHES, SEARCHES, PLAIN), min_size=1, max_size=5)
LIMITS = st.fixed_dictionaries(
    {
        "max_num_seqs": st.integers(1, 6),
        "max_num_batched_tokens": st.integers(6, 20),
        "max_model_len": st.integers(22, 40),
        "block_size": st.sampled_from([1, 3, 4]),
        "num_blocks": st.integers(22, 60),
        "enable_prefix_caching": st.booleans(),
        "swap_blocks": st.sampled_from([0, 2, 60]),
    }
).map(lambda limits: limits | {"num_blocks": -(-limits["num_blocks"] // limits["block_size"])})


def _drive(lab, limits, requests, disturb):
    """Add each request at its step, and run to the end; what each would get alone."""
    driver = lab.drive(**limits)
    pending = sorted(enumerate(requests), key=lambda item: item[1]["at_step"])
    expected = {}
    steps = 0
    while pending or driver.scheduler.has_work():
        while pending and pending[0][1]["at_step"] <= steps:
            arrival, wanted = pending.pop(0)
            fields = {key: value for key, value in wanted.items() if key != "at_step"}
            fields.setdefault("n", fields["beams"].width if "beams" in fields else 1)
            request = lab.request(f"r{arrival}", arrival=arrival, **fields)
            context = driver.limits.context_tokens
            if "beams" in fields:
                expected[request.request_id] = dict(enumerate(lab.undisturbed_beams(request, context)))
            else:
                choices = [sequence.choice for sequence in request.sequences]
                expected[request.request_id] = {c: lab.undisturbed(request, c, context) for c in choices}
            driver.add(request)
        disturb(driver)
        driver.check_blocks()
        steps += 1
        assert steps < 5000
    assert driver.scheduler.stats().free_blocks == driver.limits.num_blocks
    assert driver.scheduler.stats().free_swap_blocks == driver.limits.swap_blocks
    return driver, expected


def _check(driver, name, answers):
    for choice, (tokens, reason, stop_reason) in answers.items():
        last = driver.last(name, choice)
        assert driver.tokens(name, choice) == tokens
        assert (last.finish_reason, last.stop_reason) == (reason, stop_reason)


@settings(max_examples=100, deadline=None)
@given(limits=LIMITS, requests=REQUESTS)
def test_answers_never_depend_on_batch_chunks_blocks_or_preemption(lab, limits, requests):
    driver, expected = _drive(lab, limits, requests, lambda driver: driver.step())
    for name, answers in expected.items():
        _check(driver, name, answers)
    for arrival, wanted in enumerate(requests):
        if "beams" in wanted:
            outputs = [driver.outputs[f"r{arrival}", choice] for choice in range(wanted["beams"].width)]
            assert all(len(said) == 1 for said in outputs), "an answer is told at once"
            scored = [entry and entry.token_id for entry in outputs[0][0].prompt_logprobs or ()]
            assert scored == ([] if wanted["prompt_logprobs"] is None else [None, *wanted["prompt"][1:]])
            assert all(said[0].prompt_logprobs is None for said in outputs[1:])


@settings(max_examples=60, deadline=None)
@given(limits=LIMITS, requests=REQUESTS, data=st.data())
def test_ending_a_search_at_any_moment_frees_its_blocks_and_changes_no_other(lab, limits, requests, data):
    ended = set()

    def end_something(driver):
        name = f"r{data.draw(st.integers(0, len(requests) - 1))}"
        if driver.scheduler.abort(name):
            ended.add(name)

    def disturb(driver):
        moment = data.draw(st.sampled_from(["never", "never", "never", "between", "after"]))
        driver.step(between=(lambda: end_something(driver)) if moment == "between" else None)
        if moment == "after":
            end_something(driver)

    driver, expected = _drive(lab, limits, requests, disturb)
    for name, answers in expected.items():
        if name not in ended:
            _check(driver, name, answers)


def test_beams_share_full_blocks_and_copy_the_one_they_still_fill(lab):
    driver = lab.drive(block_size=4, num_blocks=40)
    request = driver.add(lab.request("r", prompt=[2, 3] * 5, n=3, beams=BeamSpec(3), max_tokens=30, ignore_eos=True))
    driver.step()
    first, *forks = request.sequences
    tables = [beam.block_table for beam in (first, *forks)]
    assert [len(table) for table in tables] == [3, 3, 3]
    assert all(table[:2] == first.block_table[:2] for table in tables)
    assert len({table[2] for table in tables}) == 3
    copied = {(first.block_table[2], beam.block_table[2]) for beam in forks}
    driver.step()
    assert set(driver.plans[-1].copies) == copied
    assert driver.scheduler.stats().total_blocks - driver.scheduler.stats().free_blocks == 2 + 3


def test_only_as_many_answers_as_wanted_are_told(lab):
    driver = lab.drive()
    request = lab.request("r", n=2, beams=BeamSpec(4), max_tokens=5)
    best = lab.undisturbed_beams(request, driver.limits.context_tokens)
    driver.add(request)
    driver.run()
    assert {choice for _, choice in driver.outputs} == {0, 1}
    assert [driver.tokens("r", choice) for choice in range(2)] == [tokens for tokens, _, _ in best[:2]]


def test_answers_that_do_not_exist_are_empty(lab):
    driver = lab.drive()
    driver.impossible = range(2, 30)
    driver.add(lab.request("r", n=4, beams=BeamSpec(4), max_tokens=1))
    driver.run()
    assert [len(driver.tokens("r", choice)) for choice in range(4)] == [1, 1, 0, 0]
    assert driver.last("r", 3).finish_reason is FinishReason.LENGTH
    driver.impossible = range(30)
    driver.add(lab.request("dead", n=2, beams=BeamSpec(2), max_tokens=9))
    driver.run()
    assert [driver.tokens("dead", choice) for choice in range(2)] == [[], []]
