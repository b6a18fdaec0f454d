"""An answer told again in other frames is cut to what is new, exactly."""

import hypothesis.strategies as st
from hypothesis import given

from headrace_shared.protocol.event import Delta, Event, Finished, FinishReason, PromptScored, Started, TokenLogprob
from headrace_shared.queue.progress import Progress

CHOICES = 2
LENGTH = 12
LAG = 3
"""Characters that are held back until the end, as half a stop string would be."""
FINISHED = Finished(3, LENGTH * CHOICES)

cuts = st.lists(st.integers(1, 5), min_size=LENGTH, max_size=LENGTH)


def text_after(tokens: int) -> str:
    said = "".join(f"t{n} " for n in range(tokens))
    return said if tokens == LENGTH else said[: max(0, len(said) - LAG)]


def frames(sizes: list[int], worker: str, logprobs: bool) -> list[list[Event]]:
    """The whole answer, in frames of so many tokens of each choice."""
    told: list[list[Event]] = [[Started(worker), PromptScored([None])]]
    at = 0
    for size in sizes:
        end = min(at + size, LENGTH)
        if at == end:
            break
        ids = list(range(at, end))
        text = text_after(end)[len(text_after(at)) :]
        scores = [TokenLogprob(n, -0.5 * n, 1) for n in ids] if logprobs else None
        reason = FinishReason.LENGTH if end == LENGTH else None
        told.append([Delta(choice, ids, text, scores, reason) for choice in range(CHOICES)])
        at = end
    told.append([FINISHED])
    return told


def heard(told: list[list[Event]]) -> list[object]:
    """What a reader makes of it, however it was cut."""
    events = [event for frame in told for event in frame]
    deltas = [event for event in events if isinstance(event, Delta)]
    whole: list[object] = [sum(isinstance(event, PromptScored) for event in events), events[-1]]
    for choice in range(CHOICES):
        mine = [delta for delta in deltas if delta.choice == choice]
        ids = [token for delta in mine for token in delta.token_ids]
        scores = [score for delta in mine for score in delta.logprobs or []]
        ends = [delta.finish_reason for delta in mine if delta.finish_reason]
        whole.append((ids, "".join(delta.text for delta in mine), scores, ends))
    return whole


@given(cuts, cuts, cuts, st.integers(0, 14), st.integers(0, 14), st.booleans())
def test_however_often_it_is_told_again_everything_is_had_once(
    first: list[int], second: list[int], third: list[int], stop: int, again: int, logprobs: bool
) -> None:
    progress = Progress()
    had = [progress.take(frame) for frame in frames(first, "w1", logprobs)[:-1][:stop]]
    progress.tell_again()
    had += [progress.take(frame) for frame in frames(second, "w2", logprobs)[:-1][:again]]
    progress.tell_again()
    had += [progress.take(frame) for frame in frames(third, "w3", logprobs)]
    assert heard(had) == heard(frames([LENGTH], "w", logprobs))


def test_an_undisturbed_answer_is_handed_out_as_it_is() -> None:
    progress = Progress()
    told = frames([1] * LENGTH, "w", logprobs=True)
    assert [progress.take(frame) for frame in told] == told


def test_a_worker_that_begins_is_named_once() -> None:
    progress = Progress()
    assert progress.take([Started("w1"), Started("w1", 2)]) == [Started("w1"), Started("w1", 2)]
    progress.tell_again()
    assert progress.take([Started("w1"), Started("w2")]) == [Started("w2")]
