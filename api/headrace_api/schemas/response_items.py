"""Items: what a Responses conversation is made of, as clients send them and as answers show them."""

from typing import Annotated, Any, Literal

import msgspec
from pydantic import BeforeValidator, Field

from headrace_api.schemas.base import Part, TextOr
from headrace_api.schemas.chat import ChatTokenLogprob

_TYPES = ("message", "function_call", "function_call_output", "reasoning")


class _Sent(Part):
    """What clients send back is often an earlier answer's item, with all that it told."""

    says_nothing = frozenset({"annotations", "id", "logprobs", "namespace", "phase", "status"})


class SentText(_Sent):
    """``input_text`` and ``output_text`` alike."""

    type: Literal["input_text", "output_text"]
    text: str


class SentRefusal(_Sent):
    type: Literal["refusal"]
    refusal: str


def _text_only(value: object) -> object:
    if isinstance(value, dict) and value.get("type") not in ("input_text", "output_text", "refusal"):
        raise ValueError(f"a part of type {str(value.get('type'))[:40]!r} is not supported: the models here take text")
    return value


SentPart = Annotated[SentText | SentRefusal, Field(discriminator="type"), BeforeValidator(_text_only)]


class SentMessage(_Sent):
    type: Literal["message"]
    role: Literal["user", "assistant", "system", "developer"]
    content: TextOr[SentPart]


class SentCall(_Sent):
    type: Literal["function_call"]
    call_id: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(min_length=1)]
    arguments: str


class SentCallOutput(_Sent):
    type: Literal["function_call_output"]
    call_id: Annotated[str, Field(min_length=1)]
    output: TextOr[Annotated[SentText, BeforeValidator(_text_only)]]


class SentThought(_Sent):
    type: Literal["reasoning_text", "summary_text", "text"]
    text: str


class SentReasoning(_Sent):
    """``encrypted_content`` is only readable where it was made."""

    type: Literal["reasoning"]
    summary: Annotated[list[SentThought], Field(default_factory=list)]
    content: list[SentThought] | None = None
    encrypted_content: None = None


def _known(value: object) -> object:
    """A message may come without its type. What else there is is refused by its name."""
    if not isinstance(value, dict):
        return value
    if "type" not in value and "role" in value:
        return {**value, "type": "message"}
    if value.get("type") not in _TYPES:
        raise ValueError(
            f"an item of type {str(value.get('type'))[:40]!r} is not supported; there are {', '.join(_TYPES)}"
        )
    return value


SentItem = Annotated[
    SentMessage | SentCall | SentCallOutput | SentReasoning, Field(discriminator="type"), BeforeValidator(_known)
]


class InputText(msgspec.Struct, frozen=True, tag="input_text"):
    text: str


class OutputText(msgspec.Struct, frozen=True, tag="output_text"):
    text: str
    annotations: list[Any] = []
    logprobs: list[ChatTokenLogprob] = []


class ReasoningText(msgspec.Struct, frozen=True, tag="reasoning_text"):
    text: str


class InputMessage(msgspec.Struct, frozen=True, tag="message", kw_only=True):
    """What somebody else than the model said."""

    id: str
    role: str
    status: str = "completed"
    content: list[InputText]


class OutputMessage(msgspec.Struct, frozen=True, tag="message", kw_only=True):
    """What the model said."""

    id: str
    role: str = "assistant"
    status: str
    content: list[OutputText]


class FunctionCall(msgspec.Struct, frozen=True, tag="function_call", kw_only=True):
    """``arguments`` is JSON text."""

    id: str
    call_id: str
    name: str
    arguments: str
    status: str


class FunctionCallOutput(msgspec.Struct, frozen=True, tag="function_call_output", kw_only=True):
    """What the client's function answered."""

    id: str
    call_id: str
    output: str
    status: str = "completed"


class ReasoningItem(msgspec.Struct, frozen=True, tag="reasoning", kw_only=True):
    """The model's thoughts in full; there are no summaries."""

    id: str
    summary: list[ReasoningText] = []
    content: list[ReasoningText]
    status: str


OutputItem = OutputMessage | FunctionCall | ReasoningItem
Item = InputMessage | FunctionCallOutput | OutputItem
"""Messages of both kinds have one tag: what is read back is told apart by its role."""
