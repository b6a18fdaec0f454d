import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_shared.text.stops import StopMatcher

_LETTERS = "aab\n🙂"
_stops = st.lists(st.text(alphabet=_LETTERS, min_size=1, max_size=4), max_size=4)


def run(stop: list[str], include: bool, pieces: list[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(stop, include)
    shown = ""
    for piece in pieces:
        step = matcher.feed(piece)
        shown += step.text
        if step.matched is not None:
            return shown, step.matched
    return shown + matcher.finish(), None


def by_definition(stop: list[str], include: bool, text: str) -> tuple[str, str | None]:
    for end in range(1, len(text) + 1):
        for string in stop:
            if text[:end].endswith(string):
                return (text[:end] if include else text[: end - len(string)]), string
    return text, None


@given(stop=_stops, include=st.booleans(), pieces=st.lists(st.text(alphabet=_LETTERS, max_size=5), max_size=8))
def test_the_result_is_that_of_the_whole_text_however_it_is_cut(
    stop: list[str], include: bool, pieces: list[str]
) -> None:
    assert run(stop, include, pieces) == by_definition(stop, include, "".join(pieces))


@given(stop=_stops, text=st.text(alphabet=_LETTERS, max_size=20))
def test_only_the_beginning_of_a_stop_string_is_held_back(stop: list[str], text: str) -> None:
    matcher = StopMatcher(stop, include=False)
    shown = seen = ""
    for character in text:
        step = matcher.feed(character)
        if step.matched is not None:
            return
        shown += step.text
        seen += character
        held = [size for string in stop for size in range(1, len(string)) if seen.endswith(string[:size])]
        assert len(seen) - len(shown) == max(held, default=0)


def test_included_text_is_never_held_back() -> None:
    matcher = StopMatcher(["END"], include=True)
    assert matcher.feed("an EN").text == "an EN"
    assert matcher.feed("D of it") == ("D", "END")


def test_the_string_that_is_complete_first_wins() -> None:
    assert run(["long stop", "st"], False, ["a long stop"]) == ("a long ", "st")


def test_of_strings_complete_together_the_first_listed_wins() -> None:
    assert run(["bc", "abc"], False, ["xabc"]) == ("xa", "bc")
    assert run(["abc", "bc"], False, ["xabc"]) == ("x", "abc")
    assert run(["abc", "bc", "abc"], False, ["xabc"]) == ("x", "abc")


def test_nothing_follows_a_match() -> None:
    matcher = StopMatcher(["."], include=False)
    assert matcher.feed("one. two") == ("one", ".")
    assert matcher.feed("three") == ("", ".")
    assert matcher.finish() == ""


def test_held_text_comes_out_when_the_text_ends() -> None:
    matcher = StopMatcher(["\n\nUser:"], include=False)
    assert matcher.feed("done\n\nUse").text == "done"
    assert matcher.finish() == "\n\nUse"


@pytest.mark.parametrize("include", [False, True])
def test_without_stop_strings_everything_passes(include: bool) -> None:
    assert StopMatcher([], include).feed("anything") == ("anything", None)
