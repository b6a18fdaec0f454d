"""POST /v1/chat/completions: the request, the answer and the stream's chunks."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import AfterValidator, Field

from headrace_api.schemas.base import JsonObject, OffValues, PromptLogprobs, Usage
from headrace_api.schemas.generation import NOT_SUPPORTED, GenerationRequest
from headrace_api.schemas.problems import Problem
from headrace_api.schemas.request_metrics import RequestMetrics


def _message(message: dict[str, Any]) -> dict[str, Any]:
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise ValueError("a message needs a role, a non-empty string")
    content = message.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict | str) for part in content):
            raise ValueError("a part of content should be an object or a string")
    elif not isinstance(content, str | None):
        raise ValueError("content should be a string, a list of parts or null")
    return message


def _template_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    for name in ("chat_template", "tokenize"):
        if name in kwargs:
            raise ValueError(f"{name} may not be passed here")
    return kwargs


Messages = Annotated[list[Annotated[JsonObject, AfterValidator(_message)]], Field(min_length=1)]
TemplateKwargs = Annotated[JsonObject, AfterValidator(_template_kwargs)]


class ChatRequest(GenerationRequest):
    """Body of POST /v1/chat/completions."""

    not_supported: ClassVar[Mapping[str, OffValues]] = {
        **NOT_SUPPORTED,
        "audio": (),
        "function_call": ("none",),
        "functions": (),
        "media_io_kwargs": ({},),
        "modalities": (["text"],),
        "moderation": (),
        "prediction": (),
        "prompt_cache_options": (),
        "prompt_cache_retention": ("in_memory",),
        "reasoning_effort": (),
        "return_prompt_text": (False,),
        "store": (False,),
        "tool_choice": ("none",),
        "tools": (),
        "verbosity": ("medium",),
        "web_search_options": (),
    }

    messages: Messages
    max_tokens: Annotated[int | None, Field(ge=1, json_schema_extra={"deprecated": True})] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int | None, Field(ge=0)] = None
    add_generation_prompt: bool | None = True
    continue_final_message: bool | None = False
    add_special_tokens: bool | None = False
    documents: list[JsonObject] | None = None
    chat_template: str | None = None
    chat_template_kwargs: TemplateKwargs | None = None
    include_reasoning: bool | None = True
    parallel_tool_calls: bool | None = True
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None

    def conflicts(self) -> list[Problem]:
        problems = super().conflicts()
        if self.top_logprobs and not self.logprobs:
            problems.append(Problem("top_logprobs", "is only allowed with logprobs: true"))
        if self.continue_final_message and self.opens_reply:
            problems.append(
                Problem(
                    "continue_final_message", "is not possible while add_generation_prompt is true; send it as false"
                )
            )
        return problems

    @property
    def opens_reply(self) -> bool:
        """Whether the prompt ends with the opening of a new reply."""
        return self.add_generation_prompt is not False


class TopTokenLogprob(msgspec.Struct, frozen=True):
    """One candidate."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatTokenLogprob(msgspec.Struct, frozen=True):
    """The token that was taken, and the most likely ones there."""

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopTokenLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """One entry per token of a message or a delta."""

    content: list[ChatTokenLogprob]


class ChatMessage(msgspec.Struct, frozen=True):
    """What the model answered."""

    role: str
    content: str
    refusal: None = None


class ChatChoice(msgspec.Struct, frozen=True):
    """One of the ``n`` answers."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: str
    stop_reason: str | int | None
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of POST /v1/chat/completions without ``stream``."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    metrics: RequestMetrics | UnsetType = UNSET
    """Timings, for a request with `include_metrics`."""
    service_tier: str | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | None = None
    prompt_token_ids: list[int] | UnsetType = UNSET


class ChatDelta(msgspec.Struct, frozen=True):
    """What a chunk adds to a message."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChatChunkChoice(msgspec.Struct, frozen=True):
    """One choice's part of a chunk. ``stop_reason`` is there on the choice's last one."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | UnsetType | None = UNSET
    token_ids: list[int] | UnsetType = UNSET


class ChatChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a streamed answer."""

    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | UnsetType = UNSET
    metrics: RequestMetrics | UnsetType = UNSET
    """On the chunk with the usage, for a request with `include_metrics`."""
    service_tier: str | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
