"""A thinking budget counts the tokens between the markers, and forces the end marker when they are spent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_shared.protocol.sampling import ThinkingSpec
from headrace_worker.schedule.thinking import ThinkingBudget

TOKENS = [b"a", b"b", b"<think>", b"</think>", b"</", b"think", b">", b"\n", b"<", b">\n", b"<thi", b"nk>x"]
A, B, START, END, CLOSE, WORD, GT, BREAK, LT, GT_BREAK, THI, NKX = range(len(TOKENS))
MARKERS = {"ends": ("</think>",), "starts": ("<think>",)}


def budget(tokens: int, *, end_ids=(END,), opened=False, **markers) -> ThinkingBudget:
    spec = ThinkingSpec(budget_tokens=tokens, end_ids=end_ids, opened=opened, **(MARKERS | markers))
    return ThinkingBudget(spec, TOKENS.__getitem__)


def answered(spec_budget: ThinkingBudget, wanted: list[int]) -> list[int]:
    """What comes of a model that wants these tokens in turn, however often others are forced on it."""
    output: list[int] = []
    for token in wanted:
        forced = spec_budget.forced([9, 9, *output], 2)
        output.append(token if forced is None else forced)
    return output


@pytest.mark.parametrize(
    ("tokens", "opened", "wanted", "got"),
    [
        (2, False, [START, A, A, A, A], [START, A, A, END, A]),
        (0, False, [START, A, A], [START, END, A]),
        (2, False, [BREAK, START, A, A, A], [BREAK, START, A, A, END]),
        (2, False, [THI, NKX, A, A], [THI, NKX, A, A]),
        (1, False, [A, START, A, A, A], [A, START, A, A, A]),
        (1, False, [START, END, START, A, A, A], [START, END, START, A, A, A]),
        (2, False, [START, A, END, A, A, A], [START, A, END, A, A, A]),
        (2, False, [START, A, CLOSE, WORD, GT, B], [START, A, CLOSE, END, GT, B]),
        (4, False, [START, A, CLOSE, WORD, GT_BREAK, B, B], [START, A, CLOSE, WORD, GT_BREAK, B, B]),
        (2, True, [A, A, A, A], [A, A, END, A]),
        (2, True, [START, A, A, A, A], [START, A, A, END, A]),
        (0, True, [A, A], [END, A]),
        (9, True, [A, END, A, START, A], [A, END, A, START, A]),
    ],
)
def test_the_end_is_forced_after_so_many_tokens_of_thinking(tokens, opened, wanted, got):
    assert answered(budget(tokens, opened=opened), wanted) == got


def test_a_marker_of_several_tokens_is_forced_one_by_one_and_once():
    watch = budget(1, end_ids=(CLOSE, WORD, GT), opened=True)
    assert answered(watch, [A, B, B, B, B, B]) == [A, CLOSE, WORD, GT, B, B]
    assert watch.over


def test_any_of_several_ends_counts():
    watch = budget(3, opened=True, ends=("</think>", "b"))
    assert answered(watch, [A, B, A, A, A]) == [A, B, A, A, A]


@given(
    st.lists(st.integers(0, len(TOKENS) - 1), max_size=20),
    st.integers(0, 6),
    st.booleans(),
    st.sampled_from([(END,), (CLOSE, WORD, GT)]),
)
def test_whoever_goes_on_in_the_middle_forces_the_same_tokens(wanted, tokens, opened, end_ids):
    output = answered(budget(tokens, opened=opened, end_ids=end_ids), wanted)
    for length in range(len(output)):
        fresh = budget(tokens, opened=opened, end_ids=end_ids).forced(output[:length], 0)
        assert fresh in (None, output[length])
        assert fresh is not None or output[length] == wanted[length]
