"""An answer that goes round in circles ends where the pattern has come as often as was said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_shared.protocol.event import FinishReason
from headrace_shared.protocol.sampling import RepetitionSpec
from headrace_worker.schedule.end_rules import EndRules

RULES = EndRules(frozenset({1}), 1000)


def ends(lab, output, spec, **stopping) -> bool:
    request = lab.request("r", [7, 7, 7], max_tokens=500, repetition=spec, resumed={0: list(output[:-1])}, **stopping)
    found = RULES.ending(request.sequences[0], output[-1])
    return found is not None and found.reason is FinishReason.REPETITION


@pytest.mark.parametrize(
    ("output", "spec", "expected"),
    [
        ([7, 7, 7], RepetitionSpec(1, 3), True),
        ([7, 7], RepetitionSpec(1, 3), False),
        ([5, 6, 5, 6, 5, 6], RepetitionSpec(2, 3), True),
        ([5, 6, 5, 6, 5, 6], RepetitionSpec(1, 3), False),
        ([5, 6, 5, 6, 5, 6], RepetitionSpec(4, 3, 3), False),
        ([4, 5, 6, 5, 6, 9, 5, 6], RepetitionSpec(4, 2), False),
        ([7, 7, 7, 7], RepetitionSpec(2, 2, 2), True),
    ],
)
def test_a_pattern_counts_when_it_comes_as_often_in_a_row(lab, output, spec, expected):
    assert ends(lab, output, spec) is expected


@given(
    st.lists(st.integers(2, 3), min_size=1, max_size=20),
    st.builds(RepetitionSpec, st.integers(1, 6), st.integers(2, 4), st.integers(1, 4)),
)
def test_it_is_found_as_one_would_by_comparing_every_pattern(lab, output, spec):
    def comes(size: int) -> bool:
        return (
            size * spec.min_count <= len(output) and output[-size * spec.min_count :] == output[-size:] * spec.min_count
        )

    sizes = range(spec.min_pattern_tokens, spec.max_pattern_tokens + 1)
    assert ends(lab, output, spec) is any(map(comes, sizes))


def test_other_ends_come_first_and_minimum_tokens_are_kept(lab):
    request = lab.request("r", max_tokens=3, repetition=RepetitionSpec(1, 2), stop_token_ids=(8,), resumed={0: [9, 9]})
    assert RULES.ending(request.sequences[0], 9).reason is FinishReason.LENGTH
    assert not ends(lab, [9, 9], RepetitionSpec(1, 2), min_tokens=3)
    assert not ends(lab, [8, 8], RepetitionSpec(1, 2), stop_token_ids=(8,))
    assert not ends(lab, [1, 1], RepetitionSpec(1, 2))
