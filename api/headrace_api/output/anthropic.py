"""Events to an answer of /v1/messages: as typed events while they come, or collected into one body."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import UNSET, UnsetType

from headrace_api.errors import messages_error_body
from headrace_api.output.blocks import BlockKind, BlockReader, Closed, Grew, Opened, Step
from headrace_api.output.event_ids import EventIds
from headrace_api.output.message import MessageForm
from headrace_api.schemas.anthropic import (
    Block,
    BlockDelta,
    BlockStart,
    BlockStop,
    Ending,
    InputJsonDelta,
    Message,
    MessageDelta,
    MessageEvent,
    MessageStart,
    MessageStop,
    MessageUsage,
    Ping,
    SignatureDelta,
    StartUsage,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ThinkingTokens,
    ToolUseBlock,
)
from headrace_shared.errors import HeadraceError
from headrace_shared.protocol.event import Event

_REFUSED_JSON = "INVALID_JSON"
"""Under this name Anthropic's guide passes arguments on that a model has not written as a JSON object."""


@dataclass(frozen=True, slots=True)
class MessageShape:
    """What is known of an answer before it begins."""

    request_id: str
    model: str
    """As the client named it."""
    prompt_tokens: int
    form: MessageForm

    def message(self, content: list[Block], ending: Ending | None, usage: StartUsage) -> Message:
        return Message(
            id=f"msg_{self.request_id}",
            model=self.model,
            content=content,
            stop_reason=ending.stop_reason if ending else None,
            stop_sequence=ending.stop_sequence if ending else None,
            usage=usage,
        )

    def opened(self, block: Opened) -> Block:
        """The block while nothing of it is known."""
        match block.kind:
            case BlockKind.TEXT:
                return TextBlock("")
            case BlockKind.THOUGHTS:
                return ThinkingBlock("", "")
            case BlockKind.CALL:
                return ToolUseBlock(block.call_id, block.name, {})

    def closed(self, block: Opened, whole: str) -> Block:
        """The whole block."""
        match block.kind:
            case BlockKind.TEXT:
                return TextBlock(whole)
            case BlockKind.THOUGHTS:
                return ThinkingBlock(whole, _signature(whole))
            case BlockKind.CALL:
                return ToolUseBlock(block.call_id, block.name, _input(whole))

    def usage(self, reader: BlockReader) -> MessageUsage:
        return MessageUsage(**self._counts(reader))

    def whole_usage(self, reader: BlockReader) -> StartUsage:
        return StartUsage(**self._counts(reader))

    def _counts(self, reader: BlockReader) -> dict[str, Any]:
        return {
            "input_tokens": self.prompt_tokens - reader.cached_tokens,
            "cache_read_input_tokens": reader.cached_tokens,
            "output_tokens": reader.completion_tokens,
            "output_tokens_details": ThinkingTokens(reader.thought_tokens),
        }


class MessageStream:
    """Renders one answer's events, which depend on the request's events alone. There is no DONE."""

    def __init__(self, shape: MessageShape, ids: EventIds) -> None:
        self._shape = shape
        self._ids = ids
        self._reader = BlockReader(shape.form)

    def open(self) -> bytes:
        """How many of the prompt's tokens were cached is told at the end."""
        usage = StartUsage(input_tokens=self._shape.prompt_tokens, output_tokens=0)
        return self._frame(MessageStart(self._shape.message([], None, usage))) + self._frame(Ping())

    def feed(self, _prompt: int, events: Sequence[Event]) -> bytes:
        """The frames for ``events``; b"" when there is nothing to show. A conversation has only prompt 0."""
        return self._frames(self._reader.feed(events))

    def finish(self) -> bytes:
        closing = self._frames(self._reader.finish())
        ended = MessageDelta(_ending(self._reader), self._shape.usage(self._reader))
        return closing + self._frame(ended) + self._frame(MessageStop())

    def fail(self, error: HeadraceError) -> bytes:
        return self.break_off(error)

    def break_off(self, error: HeadraceError, resume: str | UnsetType = UNSET) -> bytes:
        return self._ids.broken_off(messages_error_body(error, resume), "error")

    def _frames(self, steps: Iterable[Step]) -> bytes:
        return b"".join(self._frame(event) for step in steps for event in self._events(step))

    def _events(self, step: Step) -> list[MessageEvent]:
        match step:
            case Opened():
                self._block = step
                return [BlockStart(step.index, self._shape.opened(step))]
            case Grew():
                return [BlockDelta(self._block.index, _delta(self._block.kind, step.text))]
            case Closed(block, whole):
                signed = block.kind is BlockKind.THOUGHTS
                signature = [BlockDelta(block.index, SignatureDelta(_signature(whole)))] if signed else []
                return [*signature, BlockStop(block.index)]

    def _frame(self, event: MessageEvent) -> bytes:
        return self._ids.frame(0, event, str(event.__struct_config__.tag))


class MessageAnswer:
    """Collects one answer. ``feed`` takes events in order, ``finish`` gives the body."""

    def __init__(self, shape: MessageShape) -> None:
        self._shape = shape
        self._reader = BlockReader(shape.form)
        self._content: list[Block] = []

    def feed(self, _prompt: int, events: Sequence[Event]) -> None:
        self._add(self._reader.feed(events))

    def finish(self) -> Message:
        self._add(self._reader.finish())
        return self._shape.message(self._content, _ending(self._reader), self._shape.whole_usage(self._reader))

    def _add(self, steps: Iterable[Step]) -> None:
        self._content += [self._shape.closed(step.block, step.whole) for step in steps if isinstance(step, Closed)]


def _delta(kind: BlockKind, text: str) -> TextDelta | ThinkingDelta | InputJsonDelta:
    match kind:
        case BlockKind.TEXT:
            return TextDelta(text)
        case BlockKind.THOUGHTS:
            return ThinkingDelta(text)
        case BlockKind.CALL:
            return InputJsonDelta(text)


def _ending(reader: BlockReader) -> Ending:
    if not reader.complete:
        return Ending("max_tokens", None)
    if isinstance(reader.stop_reason, str):
        return Ending("stop_sequence", reader.stop_reason)
    return Ending("tool_use" if reader.calls else "end_turn", None)


def _signature(thoughts: str) -> str:
    """Clients want one and send it back; nobody has to check it, since thoughts are taken from anybody."""
    return hashlib.blake2b(thoughts.encode(), digest_size=16).hexdigest()


def _input(arguments: str) -> dict[str, Any]:
    try:
        parsed = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        parsed = None
    return parsed if isinstance(parsed, dict) else {_REFUSED_JSON: arguments}
