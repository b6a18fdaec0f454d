"""EventWriter: the blocks of a response as its typed events, in the order that OpenAI's clients rely on."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from headrace_api.output.blocks import BlockKind, Closed, Grew, Opened, Step
from headrace_api.output.event_ids import EventIds
from headrace_api.output.response_shape import ResponseShape
from headrace_api.schemas.response_events import (
    ArgumentsDeltaEvent,
    ArgumentsDoneEvent,
    ItemEvent,
    PartEvent,
    TextDeltaEvent,
    TextDoneEvent,
)
from headrace_api.schemas.response_items import OutputItem, OutputText, ReasoningText
from headrace_shared.protocol.event import TokenLogprob

_TEXT = {BlockKind.TEXT: "response.output_text", BlockKind.THOUGHTS: "response.reasoning_text"}
_ARGUMENTS = "response.function_call_arguments"


class EventWriter:
    """Numbers the events. ``output``: the items that are complete."""

    def __init__(self, shape: ResponseShape, ids: EventIds) -> None:
        self.output: list[OutputItem] = []
        self._shape = shape
        self._ids = ids
        self._number = 0
        self._block = Opened(0, BlockKind.TEXT)
        self._item_id = ""

    def frames(self, steps: Iterable[Step]) -> bytes:
        return b"".join(frame for step in steps for frame in self._step(step))

    def frame(self, event: type[msgspec.Struct], kind: str, /, **fields: Any) -> bytes:
        """The next event; b"" when the client has it."""
        made = event(type=kind, sequence_number=self._number, **fields)
        self._number += 1
        return self._ids.frame(0, made, kind)

    def _step(self, step: Step) -> list[bytes]:
        match step:
            case Opened():
                return self._opened(step)
            case Grew():
                return [self._grown(step)]
            case Closed():
                return self._closed(step)

    def _opened(self, block: Opened) -> list[bytes]:
        item = self._shape.item(block, "", (), "in_progress")
        self._block, self._item_id = block, item.id
        added = [self.frame(ItemEvent, "response.output_item.added", output_index=block.index, item=item)]
        if block.kind is BlockKind.CALL:
            return added
        return [*added, self._within(PartEvent, "response.content_part.added", part=self._part("", ()))]

    def _grown(self, grew: Grew) -> bytes:
        kind = self._block.kind
        if kind is BlockKind.CALL:
            return self._within(ArgumentsDeltaEvent, f"{_ARGUMENTS}.delta", delta=grew.text)
        logprobs = self._shape.logprobs(grew.logprobs) if kind is BlockKind.TEXT else UNSET
        return self._within(TextDeltaEvent, f"{_TEXT[kind]}.delta", delta=grew.text, logprobs=logprobs)

    def _closed(self, closed: Closed) -> list[bytes]:
        block, whole = closed.block, closed.whole
        if block.kind is BlockKind.CALL:
            frames = [self._within(ArgumentsDoneEvent, f"{_ARGUMENTS}.done", name=block.name, arguments=whole)]
        else:
            logprobs = self._shape.logprobs(closed.logprobs) if block.kind is BlockKind.TEXT else UNSET
            frames = [
                self._within(TextDoneEvent, f"{_TEXT[block.kind]}.done", text=whole, logprobs=logprobs),
                self._within(PartEvent, "response.content_part.done", part=self._part(whole, closed.logprobs)),
            ]
        item = self._shape.item(block, whole, closed.logprobs, "completed" if closed.complete else "incomplete")
        self.output.append(item)
        return [*frames, self.frame(ItemEvent, "response.output_item.done", output_index=block.index, item=item)]

    def _part(self, text: str, entries: Sequence[TokenLogprob]) -> OutputText | ReasoningText:
        return self._shape.text(text, entries) if self._block.kind is BlockKind.TEXT else ReasoningText(text)

    def _within(self, event: type[msgspec.Struct], kind: str, /, **fields: Any) -> bytes:
        return self.frame(event, kind, item_id=self._item_id, output_index=self._block.index, **fields)
