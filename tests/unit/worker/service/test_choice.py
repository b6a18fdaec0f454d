"""One choice's text: what is shown, what is held back, and when it ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_shared.protocol.event import FinishReason
from headrace_shared.protocol.sampling import StoppingSpec
from headrace_shared.text.tokenizer import Tokenizer
from headrace_worker.engine.simulate import EOS_ID, simulated_files
from headrace_worker.schedule.plan import SequenceOutput
from headrace_worker.service.choice import ChoiceText

TOKENIZER = Tokenizer.from_bytes(simulated_files().tokenizer_json)


def text_of(stopping: StoppingSpec) -> ChoiceText:
    return ChoiceText(TOKENIZER, [5], stopping)


def run(text: str, stopping: StoppingSpec, *, end: FinishReason | None = None) -> tuple[str, object, object]:
    """Feed the text's tokens one by one; (shown text, finish reason, stop reason)."""
    choice = text_of(stopping)
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    shown = ""
    for position, token_id in enumerate(ids):
        last = end if position == len(ids) - 1 else None
        delta = choice.feed(SequenceOutput("r", 0, [token_id], finish_reason=last))
        shown += delta.text
        if choice.ended:
            return shown, delta.finish_reason, delta.stop_reason
    return shown, None, None


def test_text_is_cut_before_a_stop_string_that_spans_tokens() -> None:
    assert run("the quick brown fox", StoppingSpec(stop=("k br",))) == ("the quic", FinishReason.STOP, "k br")


def test_the_stop_string_is_kept_when_asked_for() -> None:
    stopping = StoppingSpec(stop=("k br",), include_stop_str_in_output=True)
    assert run("the quick brown fox", stopping) == ("the quick br", FinishReason.STOP, "k br")


def test_a_stop_string_wins_over_the_length_limit_of_the_same_token() -> None:
    assert run("abc", StoppingSpec(stop=("c",)), end=FinishReason.LENGTH) == ("ab", FinishReason.STOP, "c")


def test_held_back_text_is_shown_when_the_length_limit_ends_the_choice() -> None:
    assert run("abc", StoppingSpec(stop=("cd",)), end=FinishReason.LENGTH) == ("abc", FinishReason.LENGTH, None)


def test_stop_strings_are_not_looked_for_among_the_minimum_tokens() -> None:
    shown, reason, _ = run("aXbXc", StoppingSpec(stop=("X",), min_tokens=2))
    assert (shown, reason) == ("aXb", FinishReason.STOP)


@pytest.mark.parametrize(("include", "expected"), [(False, "a"), (True, "a<|im_end|>")])
def test_the_token_that_ends_a_choice_is_counted_and_only_shown_when_asked_for(include: bool, expected: str) -> None:
    choice = text_of(StoppingSpec(skip_special_tokens=False, include_stop_str_in_output=include))
    first = choice.feed(SequenceOutput("r", 0, TOKENIZER.encode("a", add_special_tokens=False)))
    last = choice.feed(SequenceOutput("r", 0, [EOS_ID], finish_reason=FinishReason.STOP))
    assert first.text + last.text == expected
    assert last.token_ids == [EOS_ID]


def test_half_a_character_is_never_shown() -> None:
    choice = text_of(StoppingSpec())
    ids = TOKENIZER.encode("é漢🙂", add_special_tokens=False)
    pieces = [choice.feed(SequenceOutput("r", 0, [token_id])).text for token_id in ids]
    assert "".join(pieces) == "é漢🙂"
    assert "\ufffd" not in "".join(pieces)


@given(
    st.text(alphabet="ab🙂é ", max_size=30), st.lists(st.text("ab🙂", min_size=1, max_size=3), max_size=2), st.data()
)
def test_a_replayed_choice_continues_with_the_text_that_the_first_worker_would_have_shown(
    text: str, stop: list[str], data: st.DataObject
) -> None:
    stopping = StoppingSpec(stop=tuple(stop))
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    whole, pieces = text_of(stopping), []
    for token_id in ids:
        pieces.append(whole.feed(SequenceOutput("r", 0, [token_id])).text)
        if whole.ended:
            break
    cut = data.draw(st.integers(0, max(0, len(pieces) - 1)))
    resumed = text_of(stopping)
    resumed.replay(ids[:cut])
    rest = [resumed.feed(SequenceOutput("r", 0, [token_id])).text for token_id in ids[cut : len(pieces)]]
    assert rest == pieces[cut:]
    assert resumed.ended == whole.ended
