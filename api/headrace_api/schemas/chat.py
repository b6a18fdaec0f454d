"""POST /v1/chat/completions: the request, the answer and the stream's chunks."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import AfterValidator, Field

from headrace_api.schemas.base import JsonObject, OffValues, PromptLogprobs, Usage
from headrace_api.schemas.conversation import Messages
from headrace_api.schemas.generation import NOT_SUPPORTED, GenerationRequest
from headrace_api.schemas.problems import Problem
from headrace_api.schemas.request_metrics import RequestMetrics
from headrace_api.schemas.tools import (
    AllowedToolsChoice,
    FunctionChoice,
    FunctionTool,
    ToolCall,
    ToolCallDelta,
    ToolChoice,
    Tools,
    tool_problems,
)


def _template_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    for name in ("chat_template", "tokenize"):
        if name in kwargs:
            raise ValueError(f"{name} may not be passed here")
    return kwargs


TemplateKwargs = Annotated[JsonObject, AfterValidator(_template_kwargs)]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
ToolMode = Literal["none", "auto", "required", "named"]


class ChatRequest(GenerationRequest):
    """Body of POST /v1/chat/completions."""

    not_supported: ClassVar[Mapping[str, OffValues]] = {
        **{name: off for name, off in NOT_SUPPORTED.items() if name != "thinking_token_budget"},
        "audio": (),
        "function_call": ("none",),
        "functions": ([],),
        "media_io_kwargs": ({},),
        "modalities": (["text"],),
        "moderation": (),
        "prediction": (),
        "prompt_cache_options": (),
        "prompt_cache_retention": ("in_memory",),
        "return_prompt_text": (False,),
        "verbosity": ("medium",),
        "web_search_options": (),
    }
    replaced: ClassVar[Mapping[str, str]] = {"functions": "tools", "function_call": "tool_choice"}

    messages: Messages
    max_tokens: Annotated[int | None, Field(ge=1, json_schema_extra={"deprecated": True})] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int | None, Field(ge=-1, description="-1: of the whole vocabulary.")] = None
    add_generation_prompt: bool | None = True
    continue_final_message: bool | None = False
    add_special_tokens: bool | None = False
    documents: list[JsonObject] | None = None
    chat_template: str | None = None
    chat_template_kwargs: TemplateKwargs | None = None
    tools: Tools | None = None
    tool_choice: Annotated[
        ToolChoice | None,
        Field(description="Whether tools may or must be called; auto where tools are sent, unless said."),
    ] = None
    parallel_tool_calls: Annotated[bool | None, Field(description="false: one call per answer at most.")] = True
    reasoning_effort: Annotated[
        ReasoningEffort | None, Field(description="For chat templates that know it, or whether to think at all.")
    ] = None
    include_reasoning: Annotated[bool | None, Field(description="false: the thoughts are left out of the answer.")] = (
        True
    )
    thinking_token_budget: Annotated[
        int | None, Field(ge=-1, description="Tokens after which thinking is ended; -1: any number.")
    ] = None
    store: Annotated[bool | None, Field(description="Keep the answer, so that it can be fetched.")] = False
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None

    def conflicts(self) -> list[Problem]:
        problems = super().conflicts()
        if self.top_logprobs and not self.logprobs:
            problems.append(Problem("top_logprobs", "is only allowed with logprobs: true"))
        if self.logprob_token_ids is not None and not self.logprobs:
            problems.append(Problem("logprob_token_ids", "is only allowed with logprobs: true"))
        if self.use_beam_search and self.thinking_token_budget not in (None, -1):
            problems.append(Problem("thinking_token_budget", "is not possible with use_beam_search"))
        if self.continue_final_message and self.opens_reply:
            problems.append(
                Problem(
                    "continue_final_message", "is not possible while add_generation_prompt is true; send it as false"
                )
            )
        return [*problems, *tool_problems(self.tools or [], self.tool_choice), *self._form_conflicts()]

    def _form_conflicts(self) -> list[Problem]:
        constraints = self.constraints()
        if self.tool_mode != "named" or not constraints:
            return []
        return [Problem(constraints[0], "cannot be combined with a tool_choice that names a function")]

    @property
    def tool_mode(self) -> ToolMode:
        """What ``tool_choice`` comes to."""
        choice = self.tool_choice
        if not self.tools:
            return "none"
        if isinstance(choice, FunctionChoice):
            return "named"
        if isinstance(choice, AllowedToolsChoice):
            return choice.allowed_tools.mode
        return choice or "auto"

    @property
    def allowed_tools(self) -> dict[int, FunctionTool]:
        """The tools that ``tool_choice`` leaves, each with its place in ``tools``."""
        choice = self.tool_choice
        everything = dict(enumerate(self.tools or []))
        if isinstance(choice, FunctionChoice):
            names = {choice.function.name}
        elif isinstance(choice, AllowedToolsChoice):
            names = {each.function.name for each in choice.allowed_tools.tools}
        else:
            return everything
        return {index: tool for index, tool in everything.items() if tool.function.name in names}

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
    refusal: None = None


class ChatMessage(msgspec.Struct, frozen=True):
    """What the model answered."""

    role: str
    content: str | None
    """null when the answer has no text but calls, or ended in thought."""
    refusal: None = None
    reasoning: str | UnsetType | None = UNSET
    """What the model thought first; there for models that are known to think."""
    reasoning_content: str | UnsetType | None = UNSET
    """The same, by the name that other clients read."""
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True):
    """One of the ``n`` answers."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: str
    stop_reason: str | int | None
    token_ids: list[int] | None = None


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
    prompt_token_ids: list[int] | None = None
    metadata: JsonObject | UnsetType = UNSET
    """The request's, where a stored answer is fetched."""


class ChatDelta(msgspec.Struct, frozen=True):
    """What a chunk adds to a message."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


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
    usage: Usage | UnsetType | None = UNSET
    """Null on the chunks before the one that tells it, as OpenAI writes them."""
    metrics: RequestMetrics | UnsetType = UNSET
    """On the chunk with the usage, for a request with `include_metrics`."""
    service_tier: str | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
