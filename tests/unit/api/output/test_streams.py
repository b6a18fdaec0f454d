"""However the worker cuts its events into frames, the client gets the same answer, streamed or whole."""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from scripted_worker import byte_tokenizer

from headrace_api.output.call_ids import CallIdMinter
from headrace_api.output.chat import ChatAnswer, ChatShape, ChatStream
from headrace_api.output.completions import CompletionAnswer, CompletionShape, CompletionStream, EchoedPrompt
from headrace_api.output.envelope import Envelope
from headrace_api.output.event_ids import EventIds
from headrace_api.output.message import MessageForm
from headrace_shared.parse.message import MessageParser
from headrace_shared.parse.reasoning import reasoning_parser
from headrace_shared.parse.tools.registry import tool_parser
from headrace_shared.protocol.event import (
    Delta,
    Event,
    Finished,
    FinishReason,
    PromptScored,
    Started,
    TokenLogprob,
    TopLogprob,
)
from headrace_shared.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer(byte_tokenizer())
ENVELOPE = Envelope("id", 1, "m", "fp")


@st.composite
def runs(draw: st.DrawFn) -> tuple[int, list[list[Event]]]:
    """Choices, and the frames of a run that generates for each of them."""
    choices = draw(st.integers(1, 3))
    pending = [draw(st.lists(st.integers(0, 255), min_size=1, max_size=6)) for _ in range(choices)]
    events: list[Event] = [Started("w")]
    while any(pending):
        choice = draw(st.sampled_from([index for index, ids in enumerate(pending) if ids]))
        count = draw(st.integers(1, len(pending[choice])))
        ids, pending[choice] = pending[choice][:count], pending[choice][count:]
        entries = [TokenLogprob(i, -1.0, 1, [TopLogprob(i, -1.0, 1), TopLogprob(0, float("-inf"), 2)]) for i in ids]
        reason = None if pending[choice] else FinishReason.STOP
        text = draw(st.text(max_size=3))
        events.append(Delta(choice, ids, text, entries, reason, "stop" if reason else None))
    events.append(Finished(2, sum(len(e.token_ids) for e in events if isinstance(e, Delta))))
    cuts = sorted(draw(st.sets(st.integers(1, len(events) - 1))))
    frames = [events[start:end] for start, end in zip([0, *cuts], [*cuts, len(events)], strict=True)]
    return choices, frames


def payloads(raw: bytes) -> list[Any]:
    *events, rest = raw.split(b"\n\n")
    assert rest == b""
    found = []
    for number, event in enumerate(events, 1):
        head, data = event.split(b"\n")
        assert head == b"id: rid:%d" % number
        found.append(data.removeprefix(b"data: "))
    assert found.pop() == b"[DONE]"
    return [json.loads(data) for data in found]


def rendered(kind: type[ChatStream | CompletionStream], shape: Any, frames: Sequence[Sequence[Event]]) -> list[Any]:
    stream = kind(shape, EventIds("rid"))
    return payloads(b"".join([*(stream.feed(0, frame) for frame in frames), stream.finish()]))


@given(runs())
def test_a_chat_streamed_equals_a_chat_collected(run: tuple[int, list[list[Event]]]) -> None:
    choices, frames = run
    shape = ChatShape(
        ENVELOPE, TOKENIZER, "assistant", choices, [1, 2], top_logprobs=2, return_token_ids=True, include_usage=True
    )
    answer = ChatAnswer(shape)
    for frame in frames:
        answer.feed(0, frame)
    whole = answer.finish()
    *chunks, usage = rendered(ChatStream, shape, frames)
    assert usage["usage"]["completion_tokens"] == whole.usage.completion_tokens
    parts = [chunk["choices"][0] for chunk in chunks]
    for choice in whole.choices:
        own = [part for part in parts if part["index"] == choice.index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(part["delta"].get("content", "") for part in own) == choice.message.content
        assert [token for part in own for token in part.get("token_ids", [])] == choice.token_ids
        tokens = [entry["token"] for part in own if part["logprobs"] for entry in part["logprobs"]["content"]]
        assert choice.logprobs is not None
        assert tokens == [entry.token for entry in choice.logprobs.content]
        assert [part["finish_reason"] for part in own if part["finish_reason"]] == [choice.finish_reason]
        assert own[-1]["stop_reason"] == choice.stop_reason == "stop"


@given(runs(), st.booleans())
def test_a_completion_streamed_equals_a_completion_collected(run: tuple[int, list[list[Event]]], echo: bool) -> None:
    choices, frames = run
    prompts = [EchoedPrompt([5, 6], TOKENIZER.decode([5, 6], skip_special_tokens=True) if echo else "")]
    shape = CompletionShape(ENVELOPE, TOKENIZER, prompts, choices, logprobs=1, echo=echo)
    frames = [[PromptScored([None, TokenLogprob(6, -2.0, 1)])], *frames] if echo else frames
    answer = CompletionAnswer(shape)
    for frame in frames:
        answer.feed(0, frame)
    parts = [chunk["choices"][0] for chunk in rendered(CompletionStream, shape, frames)]
    for choice in answer.finish().choices:
        own = [part for part in parts if part["index"] == choice.index]
        assert "".join(part["text"] for part in own) == choice.text
        assert choice.logprobs is not None
        for name in ("text_offset", "tokens", "token_logprobs", "top_logprobs"):
            streamed = [value for part in own if part["logprobs"] for value in part["logprobs"][name]]
            assert streamed == getattr(choice.logprobs, name)
        assert sorted(choice.logprobs.text_offset) == choice.logprobs.text_offset
        assert own[-1]["finish_reason"] == choice.finish_reason == "stop"


def test_a_run_that_says_nothing_is_still_a_whole_answer() -> None:
    shape = ChatShape(ENVELOPE, TOKENIZER, "assistant", 1, [1, 2])
    chunks = rendered(ChatStream, shape, [[Started("w")], [Finished(2, 0)]])
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, "length"]
    text = CompletionShape(ENVELOPE, TOKENIZER, [EchoedPrompt([5], "x")], 1, echo=True)
    [chunk] = rendered(CompletionStream, text, [[Finished(1, 0)]])
    assert chunk["choices"][0]["text"] == "x"


def test_deltas_without_anything_to_show_make_no_chunk() -> None:
    shape = ChatShape(ENVELOPE, TOKENIZER, "assistant", 1, [1, 2])
    frames: list[list[Event]] = [
        [Delta(0, [200], "")],
        [Delta(0, [201], "é", finish_reason=FinishReason.LENGTH)],
        [Finished(2, 2)],
    ]
    contents = [chunk["choices"][0]["delta"]["content"] for chunk in rendered(ChatStream, shape, frames)]
    assert contents == ["", "é"]


def test_minus_infinity_is_written_as_a_number() -> None:
    shape = ChatShape(ENVELOPE, TOKENIZER, "assistant", 1, [1], top_logprobs=2)
    entry = TokenLogprob(5, float("-inf"), 1, [TopLogprob(5, float("nan"), 1)])
    chunks = rendered(ChatStream, shape, [[Delta(0, [5], "x", [entry], FinishReason.STOP)]])
    [told] = chunks[-1]["choices"][0]["logprobs"]["content"]
    assert (told["logprob"], told["top_logprobs"][0]["logprob"]) == (-9999.0, -9999.0)


CALL = '{"name": "f", "arguments": {"a": 1}}'
MARKERS = ["<think>", "</think>", "<tool_call>", "</tool_call>", f"<tool_call>{CALL}</tool_call>"]
ANSWERS = st.lists(
    st.sampled_from([*MARKERS, "hm ", "\n", "Let me see.", "<", CALL]),
    max_size=8,
).map("".join)


@given(ANSWERS, st.lists(st.integers(1, 7), max_size=40), st.booleans(), st.sampled_from(FinishReason), st.booleans())
def test_thoughts_and_calls_streamed_equal_those_collected(
    text: str, sizes: list[int], shows_reasoning: bool, reason: FinishReason, ends: bool
) -> None:
    form = MessageForm(
        parser=lambda: MessageParser(reasoning_parser("qwen3").factory(""), tool_parser("hermes").factory([], "")),
        call_ids=CallIdMinter("r"),
        thinks=True,
        shows_reasoning=shows_reasoning,
    )
    shape = ChatShape(
        ENVELOPE,
        TOKENIZER,
        "assistant",
        1,
        [1, 2],
        form,
        top_logprobs=0,
        return_token_ids=True,
        include_usage=True,
    )
    events: list[Event] = [Started("w")]
    rest = text
    for size in [*sizes, 1000]:
        piece, rest = rest[:size], rest[size:]
        ids = list(piece.encode())
        events.append(Delta(0, ids, piece, [TokenLogprob(each, -1.0, 1) for each in ids]))
    if ends:
        events.append(Delta(0, [0], "", [TokenLogprob(0, -1.0, 1)], reason))
    events.append(Finished(2, len(text)))
    answer = ChatAnswer(shape)
    answer.feed(0, events)
    whole = answer.finish()
    [choice] = whole.choices
    *chunks, usage = rendered(ChatStream, shape, [events])
    assert rendered(ChatStream, shape, [[event] for event in events]) == [*chunks, usage]
    parts = [chunk["choices"][0] for chunk in chunks]
    deltas = [part["delta"] for part in parts]
    assert "".join(delta.get("content", "") for delta in deltas) == (choice.message.content or "")
    assert "".join(delta.get("reasoning", "") for delta in deltas) == (choice.message.reasoning or "")
    calls: dict[int, list[str]] = {}
    for fragment in (call for delta in deltas for call in delta.get("tool_calls", [])):
        if "id" in fragment:
            calls[fragment["index"]] = [fragment["id"], fragment["function"]["name"], ""]
        calls[fragment["index"]][2] += fragment["function"].get("arguments", "")
    told = choice.message.tool_calls or []
    assert list(calls.values()) == [[call.id, call.function.name, call.function.arguments] for call in told]
    assert [token for part in parts for token in part.get("token_ids", [])] == choice.token_ids
    entries = [entry["token"] for part in parts if part["logprobs"] for entry in part["logprobs"]["content"]]
    assert entries == [entry.token for entry in (choice.logprobs.content if choice.logprobs else [])]
    assert parts[-1]["finish_reason"] == choice.finish_reason
    assert (choice.finish_reason == "tool_calls") == (bool(told) and ends and reason is FinishReason.STOP)
    details = whole.usage.completion_tokens_details
    assert details is not UNSET
    assert usage["usage"]["completion_tokens_details"]["reasoning_tokens"] == details.reasoning_tokens
    if shows_reasoning:
        assert choice.token_ids == [*text.encode(), *([0] if ends else [])]
