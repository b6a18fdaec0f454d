"""Whatever the load, the limits and the interruptions: same tokens, nothing lost, no one passed."""

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_shared.protocol.event import FinishReason

# Few distinct tokens and lengths around the block size, so that prefixes are shared often.
PROMPTS = st.lists(st.integers(2, 3), min_size=1, max_size=24)
REQUESTS = st.lists(
    st.fixed_dictionaries(
        {
            "prompt": PROMPTS,
            "priority": st.integers(-1, 1),
            "n": st.integers(1, 3),
            "seed": st.integers(0, 5),
            "max_tokens": st.integers(0, 20),
            "min_tokens": st.integers(0, 4),
            "stop_token_ids": st.sampled_from([(), (7,), (7, 8, 9)]),
            "ignore_eos": st.booleans(),
            "prompt_logprobs": st.sampled_from([None, None, 0]),
            "at_step": st.integers(0, 12),
        }
    ),
    min_size=1,
    max_size=8,
)
LIMITS = st.fixed_dictionaries(
    {
        "max_num_seqs": st.integers(1, 5),
        "max_num_batched_tokens": st.integers(5, 20),
        "max_model_len": st.integers(26, 60),
        "block_size": st.sampled_from([1, 2, 4]),
        "num_blocks": st.integers(26, 60),
        "enable_prefix_caching": st.booleans(),
        "swap_blocks": st.sampled_from([0, 2, 60]),
    }
).map(lambda limits: limits | {"num_blocks": -(-limits["num_blocks"] // limits["block_size"])})

GUESSING = st.none() | st.fixed_dictionaries(
    {
        "num_tokens": st.integers(1, 6),
        "wrong_in": st.integers(0, 4),
        "disable_by_batch_size": st.sampled_from([None, 2, 100]),
    }
)


def _drive(lab, limits, requests, disturb, guessing=None):
    """Add each request at its step, disturb between plan and commit or after it, and run to the end."""
    driver = lab.drive(lab.speculation(**guessing) if guessing else None, **limits)
    pending = sorted(enumerate(requests), key=lambda item: item[1]["at_step"])
    expected = {}
    steps = 0
    while pending or driver.scheduler.has_work():
        while pending and pending[0][1]["at_step"] <= steps:
            arrival, wanted = pending.pop(0)
            wanted = {key: value for key, value in wanted.items() if key != "at_step"}
            request = driver.add(lab.request(f"r{arrival}", arrival=arrival, **wanted))
            for sequence in request.sequences:
                key = request.request_id, sequence.choice
                expected[key] = lab.undisturbed(request, sequence.choice, driver.limits.context_tokens)
        disturb(driver, steps)
        driver.check_blocks()
        steps += 1
        assert steps < 5000
    return driver, expected


@settings(max_examples=150, deadline=None)
@given(limits=LIMITS, requests=REQUESTS, guessing=GUESSING)
def test_tokens_never_depend_on_batch_chunks_blocks_preemption_or_guesses(lab, limits, requests, guessing):
    driver, expected = _drive(lab, limits, requests, lambda driver, _: driver.step(), guessing)
    for (request_id, choice), (tokens, reason, stop_reason) in expected.items():
        last = driver.last(request_id, choice)
        assert driver.tokens(request_id, choice) == tokens
        assert (last.finish_reason, last.stop_reason) == (reason, stop_reason)
        assert [output.first for output in driver.outputs[request_id, choice]].count(True) == 1
    stats = driver.scheduler.stats()
    assert stats.free_blocks == stats.total_blocks
    assert stats.free_swap_blocks == stats.total_swap_blocks
    assert stats.running == stats.waiting == 0


@settings(max_examples=150, deadline=None)
@given(limits=LIMITS, requests=REQUESTS)
def test_every_scored_prompt_is_reported_once_and_before_any_other_token_of_its_request(lab, limits, requests):
    reports = {}

    def step(driver, _):
        for output in driver.step():
            reports.setdefault(output.request_id, []).append(output.prompt_logprobs)

    _drive(lab, limits, requests, step)
    for arrival, wanted in enumerate(requests):
        first, *rest = reports[f"r{arrival}"]
        assert all(report is None for report in rest)
        if wanted["prompt_logprobs"] is None:
            assert first is None
        else:
            assert [entry and entry.token_id for entry in first] == [None, *wanted["prompt"][1:]]
            assert [entry.logprob for entry in first[1:]] == [-float(i) for i in range(1, len(first))]


@settings(max_examples=150, deadline=None)
@given(limits=LIMITS, requests=REQUESTS, guessing=GUESSING, data=st.data())
def test_ending_anything_at_any_moment_changes_no_other_sequence(lab, limits, requests, guessing, data):
    ended = set()

    def end_something(driver):
        name = f"r{data.draw(st.integers(0, len(requests) - 1))}"
        choice = data.draw(st.integers(-1, 2))
        if choice < 0:
            if driver.scheduler.abort(name):
                ended.update((name, sequence.choice) for sequence in driver.requests[name].sequences)
        elif driver.scheduler.finish(name, choice):
            ended.add((name, choice))

    def disturb(driver, _):
        moment = data.draw(st.sampled_from(["never", "never", "never", "between", "after"]))
        driver.step(between=(lambda: end_something(driver)) if moment == "between" else None)
        if moment == "after":
            end_something(driver)

    driver, expected = _drive(lab, limits, requests, disturb, guessing)
    for (request_id, choice), (tokens, reason, _) in expected.items():
        got = driver.tokens(request_id, choice)
        if (request_id, choice) in ended:
            assert got == tokens[: len(got)]
        else:
            assert got == tokens
            assert driver.last(request_id, choice).finish_reason is reason
    assert not driver.scheduler.has_work()
    assert driver.scheduler.stats().free_blocks == driver.limits.num_blocks
    assert driver.scheduler.stats().free_swap_blocks == driver.limits.swap_blocks


@settings(max_examples=100, deadline=None)
@given(limits=LIMITS, wanted=REQUESTS.map(lambda requests: requests[0]), guessing=GUESSING, data=st.data())
def test_a_request_goes_on_elsewhere_exactly_where_its_first_engine_died(lab, limits, wanted, guessing, data):
    wanted = {key: value for key, value in wanted.items() if key != "at_step"}
    first = lab.drive(lab.speculation(**guessing) if guessing else None, **limits)
    whole = first.add(lab.request("r", **wanted))
    expected = {s.choice: lab.undisturbed(whole, s.choice, first.limits.context_tokens) for s in whole.sequences}
    for _ in range(data.draw(st.integers(0, 30))):
        if first.scheduler.has_work():
            first.step()
    finished = {s.choice for s in whole.sequences if s.finished}
    if len(finished) == wanted["n"]:
        return
    logged = {choice: first.tokens("r", choice) for choice in range(wanted["n"]) if choice not in finished}
    scored = any(output.prompt_logprobs for outputs in first.outputs.values() for output in outputs)
    second = lab.drive(**limits)
    second.add(lab.request("r", resumed=logged, finished=finished, prompt_scored=scored, **wanted))
    second.run()
    for choice, (tokens, reason, _) in expected.items():
        assert first.tokens("r", choice) + second.tokens("r", choice) == tokens
        assert (first if choice in finished else second).last("r", choice).finish_reason is reason
    assert FinishReason.ABORT not in {outputs[-1].finish_reason for outputs in second.outputs.values()}
