"""The typed events of a streamed response. ``sequence_number`` counts a response's events from 0."""

import msgspec
from msgspec import UNSET, UnsetType

from headrace_api.schemas.chat import ChatTokenLogprob
from headrace_api.schemas.response_items import OutputItem, OutputText, ReasoningText
from headrace_api.schemas.responses import Response


class ResponseEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The response as a whole: ``response.created``, ``.queued``, ``.in_progress``, ``.completed`` and so on."""

    type: str
    sequence_number: int
    response: Response


class ItemEvent(msgspec.Struct, frozen=True, kw_only=True):
    """``response.output_item.added`` and ``.done``."""

    type: str
    sequence_number: int
    output_index: int
    item: OutputItem


class _WithinItem(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    sequence_number: int
    item_id: str
    output_index: int


class PartEvent(_WithinItem, frozen=True, kw_only=True):
    """``response.content_part.added`` and ``.done``."""

    content_index: int = 0
    part: OutputText | ReasoningText


class TextDeltaEvent(_WithinItem, frozen=True, kw_only=True):
    """More text, of a message or of thoughts."""

    content_index: int = 0
    delta: str
    logprobs: list[ChatTokenLogprob] | UnsetType = UNSET


class TextDoneEvent(_WithinItem, frozen=True, kw_only=True):
    """The whole text."""

    content_index: int = 0
    text: str
    logprobs: list[ChatTokenLogprob] | UnsetType = UNSET


class ArgumentsDeltaEvent(_WithinItem, frozen=True, kw_only=True):
    """``response.function_call_arguments.delta``."""

    delta: str


class ArgumentsDoneEvent(_WithinItem, frozen=True, kw_only=True):
    """``response.function_call_arguments.done``."""

    name: str
    arguments: str


class ErrorEvent(msgspec.Struct, frozen=True, kw_only=True):
    """This server cannot tell the rest. The number is that of the last event before."""

    type: str = "error"
    sequence_number: int
    code: str
    message: str
    param: str | None
    resume: str | UnsetType = UNSET
    """Where the rest can be had."""
