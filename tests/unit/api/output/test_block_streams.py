"""However the worker's events come, an answer in blocks is told in the same bytes, and comes to the same whole."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_worker import byte_tokenizer, scored

from headrace_api.operations.endpoint import Collector, Renderer
from headrace_api.output.anthropic import MessageAnswer, MessageShape, MessageStream
from headrace_api.output.event_ids import EventIds
from headrace_api.output.message import MessageForm
from headrace_api.output.response_shape import ResponseShape
from headrace_api.output.responses import ResponseAnswer, ResponseStream
from headrace_api.schemas.responses import Response
from headrace_shared.errors import CancelledRequestError, ErrorCode, HeadraceError
from headrace_shared.parse.message import MessageParser
from headrace_shared.parse.reasoning import reasoning_parser
from headrace_shared.parse.tools.registry import tool_parser
from headrace_shared.protocol.event import Delta, Event, Finished, FinishReason, Started
from headrace_shared.text.tokenizer import Tokenizer

SAID = (
    "<think>Hm.</think>Let me see.\n"
    '<tool_call>\n{"name": "f", "arguments": {"x": [1, "é"]}}\n</tool_call>\n'
    '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call> Done.'
)
THINKS, CALLS = reasoning_parser("qwen3"), tool_parser("hermes")
FORM = MessageForm(parser=lambda: MessageParser(THINKS.factory(""), CALLS.factory([], "")), thinks=True)
BLANK = Response(
    id="resp_rid", created_at=1, status="in_progress", background=False, instructions=None, max_output_tokens=None,
    max_tool_calls=None, model="m", parallel_tool_calls=True, previous_response_id=None, prompt_cache_key=None,
    reasoning={}, safety_identifier=None, service_tier="default", store=True, temperature=1.0, text={},
    tool_choice="auto", tools=[], top_logprobs=0, top_p=1.0, truncation="disabled", user=None, metadata={},
)  # fmt: skip
RESPONSE = ResponseShape("rid", BLANK, 3, FORM, Tokenizer(byte_tokenizer()), 1)
MESSAGE = MessageShape("rid", "m", 3, FORM)
BOTH = pytest.mark.parametrize("api", ["messages", "responses"])


def stream_of(api: str, after: list[int] | None = None) -> Renderer:
    ids = EventIds("rid", 1, after)
    return MessageStream(MESSAGE, ids) if api == "messages" else ResponseStream(RESPONSE, ids)


def answer_of(api: str) -> Collector:
    return MessageAnswer(MESSAGE) if api == "messages" else ResponseAnswer(RESPONSE)


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[Event], list[list[Event]]]:
    """The events of an answer that may be cut off, and the same in frames."""
    said = SAID[: draw(st.integers(0, len(SAID)))]
    cuts = sorted(draw(st.sets(st.integers(1, max(len(said) - 1, 1)), max_size=12)))
    texts = [said[start:end] for start, end in zip([0, *cuts], [*cuts, len(said)], strict=True)]
    reason = FinishReason.STOP if said == SAID else FinishReason.LENGTH
    events: list[Event] = [Started("w")]
    events += [Delta(0, [7], text, [scored(7, 1)]) for text in texts]
    events[-1] = msgspec.structs.replace(events[-1], finish_reason=reason)
    events.append(Finished(3, len(texts), 2))
    places = sorted(draw(st.sets(st.integers(1, len(events) - 1))))
    frames = [events[start:end] for start, end in zip([0, *places], [*places, len(events)], strict=True)]
    return events, frames


def streamed(renderer: Renderer, frames: Sequence[Sequence[Event]]) -> bytes:
    return renderer.open() + b"".join(renderer.feed(0, frame) for frame in frames) + renderer.finish()


def datas(told: bytes) -> list[Any]:
    blocks = told.decode().split("\n\n")[:-1]
    assert [block.split("\n")[0] for block in blocks] == [f"id: rid:{n + 1}" for n in range(len(blocks))]
    return [json.loads(block.split("\n")[2].removeprefix("data: ")) for block in blocks]


def whole(api: str, events: Sequence[Event]) -> Any:
    answer = answer_of(api)
    answer.feed(0, events)
    return json.loads(msgspec.json.encode(answer.finish()))


@BOTH
@given(run=runs(), after=st.integers(0, 200))
def test_frames_make_no_difference(api: str, run: tuple[list[Event], list[list[Event]]], after: int) -> None:
    events, frames = run
    told = streamed(stream_of(api), frames)
    assert streamed(stream_of(api), [events]) == told
    blocks = told.split(b"\n\n")
    assert streamed(stream_of(api, [after]), frames).split(b"\n\n") == blocks[min(after, len(blocks) - 1) :]


@given(run=runs())
def test_a_streamed_response_comes_to_the_collected_one(run: tuple[list[Event], list[list[Event]]]) -> None:
    events, frames = run
    told = datas(streamed(stream_of("responses"), frames))
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert told[-1]["response"] == whole("responses", events)
    items = [event["item"] for event in told if event["type"] == "response.output_item.done"]
    assert items == told[-1]["response"]["output"]
    for place, item in enumerate(items):
        pieces = "".join(event["delta"] for event in told if "delta" in event and event["output_index"] == place)
        assert pieces == (item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"])


@given(run=runs())
def test_a_streamed_message_comes_to_the_collected_one(run: tuple[list[Event], list[list[Event]]]) -> None:
    events, frames = run
    told = datas(streamed(stream_of("messages"), frames))
    message = told[0]["message"]
    for event in told:
        match event["type"]:
            case "content_block_start":
                message["content"].append(
                    event["content_block"] | ({"input": ""} if "input" in event["content_block"] else {})
                )
            case "content_block_delta":
                block, delta = message["content"][event["index"]], event["delta"]
                name = {"input_json_delta": "input"}.get(delta["type"], delta["type"].removesuffix("_delta"))
                block[name] += delta.get(name) or delta.get("partial_json") or ""
            case "content_block_stop" if "input" in message["content"][event["index"]]:
                block = message["content"][event["index"]]
                try:
                    block["input"] = json.loads(block["input"] or "{}")
                except ValueError:
                    block["input"] = {"INVALID_JSON": block["input"]}
            case "message_delta":
                message |= event["delta"]
                message["usage"] |= event["usage"]
    assert message == whole("messages", events)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (CancelledRequestError("x"), "cancelled", None),
        (HeadraceError("x", code=ErrorCode.OVERLOADED), "failed", "rate_limit_exceeded"),
        (HeadraceError("x", code=ErrorCode.POISONED), "failed", "server_error"),
    ],
)
def test_a_response_without_an_end_says_why(error: HeadraceError, status: str, code: str | None) -> None:
    events: list[Event] = [Started("w"), Delta(0, [7], "<think>Hm.</think>Let me")]
    stream, answer = stream_of("responses"), ResponseAnswer(RESPONSE)
    told = datas(stream.open() + stream.feed(0, events) + stream.fail(error))
    answer.feed(0, events)
    assert told[-1]["type"] == "response.failed"
    response = told[-1]["response"]
    assert response == json.loads(msgspec.json.encode(answer.failed(error)))
    assert (response["status"], (response["error"] or {}).get("code")) == (status, code)
    assert [item["status"] for item in response["output"]] == ["completed", "incomplete"]


@BOTH
def test_what_a_node_cannot_tell_has_the_id_of_the_last_event(api: str) -> None:
    ids = EventIds("rid")
    stream: Renderer = MessageStream(MESSAGE, ids) if api == "messages" else ResponseStream(RESPONSE, ids)
    stream.open()
    ids.sent()
    stream.feed(0, [Delta(0, [7], "<think>Hm.</think>Let me")])
    event = stream.break_off(HeadraceError("x", code=ErrorCode.UNAVAILABLE), "/there").decode()
    head, name, data = event.rstrip().split("\n")
    assert (head, name) == ("id: rid:2", "event: error")
    told = json.loads(data.removeprefix("data: "))
    assert told["type"] == "error"
    if api == "messages":
        assert told["error"]["resume"] == "/there"
    else:
        assert (told["resume"], told["sequence_number"]) == ("/there", 1)
