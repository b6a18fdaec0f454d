"""A stream with an interval has fewer events, with the same content."""

from collections.abc import Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from headrace_api.output.paced import Paced
from headrace_shared.protocol.event import Delta, Event, Finished, FinishReason, Started, TokenLogprob


class Written:
    """Keeps what it is told; its bytes are their number."""

    def __init__(self) -> None:
        self.deltas: list[tuple[int, Delta]] = []

    def feed(self, prompt: int, events: Sequence[Event]) -> bytes:
        self.deltas += [(prompt, event) for event in events if isinstance(event, Delta)]
        return bytes(len(events))

    def finish(self) -> bytes:
        return b"end"


def run(interval: int, events: list[tuple[int, Event]], *, at_once: int = 1) -> Written:
    inner = Written()
    paced = Paced(inner, interval)
    for prompt in {prompt for prompt, _ in events}:
        own = [event for each, event in events if each == prompt]
        for start in range(0, len(own), at_once):
            paced.feed(prompt, own[start : start + at_once])
    assert paced.finish().endswith(b"end")
    return inner


def test_the_first_and_the_last_come_at_once_and_others_in_steps() -> None:
    deltas = [Delta(0, [i], chr(97 + i), [TokenLogprob(i, -1.0, 1)]) for i in range(8)]
    deltas[-1] = msgspec.structs.replace(deltas[-1], finish_reason=FinishReason.STOP, stop_reason=7)
    inner = run(3, [(0, Started("w")), *((0, delta) for delta in deltas), (0, Finished(1, 8))])
    assert [delta.text for _, delta in inner.deltas] == ["a", "bcd", "efg", "h"]
    assert [len(delta.logprobs or ()) for _, delta in inner.deltas] == [1, 3, 3, 1]
    assert (inner.deltas[-1][1].finish_reason, inner.deltas[-1][1].stop_reason) == (FinishReason.STOP, 7)


def test_what_is_held_is_told_when_the_stream_ends_without_a_last_delta() -> None:
    inner = run(9, [(0, Delta(0, [1], "a")), (0, Delta(0, [2], "b")), (0, Delta(1, [3], "c"))])
    assert [(delta.choice, delta.text) for _, delta in inner.deltas] == [(0, "a"), (1, "c"), (0, "b")]


DELTAS = st.builds(Delta, st.integers(0, 2), st.lists(st.integers(1, 9), max_size=3), st.text("ab", max_size=3))


@given(st.integers(2, 5), st.lists(st.tuples(st.integers(0, 1), DELTAS), max_size=30), st.integers(1, 5))
def test_nothing_depends_on_how_many_events_come_at_once(
    interval: int, events: list[tuple[int, Event]], at_once: int
) -> None:
    inner = run(interval, events, at_once=at_once)
    assert inner.deltas == run(interval, events).deltas
    said = [(prompt, event) for prompt, event in events if isinstance(event, Delta)]
    assert _contents(inner.deltas) == _contents(said)


def _contents(deltas: list[tuple[int, Delta]]) -> dict[tuple[int, int], tuple[str, list[int]]]:
    """Per prompt and choice: its text and its tokens."""
    found: dict[tuple[int, int], tuple[str, list[int]]] = {}
    for prompt, delta in deltas:
        text, token_ids = found.get((prompt, delta.choice), ("", []))
        found[prompt, delta.choice] = text + delta.text, [*token_ids, *delta.token_ids]
    return found
