"""POST /v1/responses: the request, and the response in every state that it can be in."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from pydantic import BeforeValidator, Discriminator, Field, Tag

from headrace_api.schemas.base import Int64, JsonObject, OffValues, Part, StopStrings, TextOr
from headrace_api.schemas.chat import TemplateKwargs
from headrace_api.schemas.generation import TIERS, Penalty
from headrace_api.schemas.problems import Problem
from headrace_api.schemas.queued import QueuedRequest
from headrace_api.schemas.response_items import OutputItem, SentItem
from headrace_api.schemas.structured import StructuredOutputs

LOGPROBS = "message.output_text.logprobs"


def _function_only(value: object) -> object:
    if isinstance(value, dict) and value.get("type") != "function":
        raise ValueError(f"a tool of type {str(value.get('type'))[:40]!r} is not supported; there are functions alone")
    return value


class ResponseTool(Part):
    """A function that the client runs."""

    type: Literal["function"]
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class ChosenFunction(Part):
    type: Literal["function"]
    name: str


class AllowedFunctions(Part):
    """The model is told of no others."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[ChosenFunction], Field(min_length=1)]


def _kind_of_choice(value: object) -> object:
    if not isinstance(value, dict):
        return "word"
    if value.get("type") in ("function", "allowed_tools"):
        return value["type"]
    return None


ChosenTools = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("word")]
    | Annotated[ChosenFunction, Tag("function")]
    | Annotated[AllowedFunctions, Tag("allowed_tools")],
    Discriminator(
        _kind_of_choice,
        custom_error_type="tool_choice",
        custom_error_message="should be none, auto, required, or an object of the type function or allowed_tools",
    ),
]


class TextFormat(Part):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: Annotated[JsonObject | None, Field(alias="schema")] = None
    strict: bool | None = None


class TextConfig(Part):
    format: TextFormat | None = None
    verbosity: Annotated[Literal["medium"] | None, Field(description="Only the default.")] = None


class Reasoning(Part):
    effort: str | None = None
    summary: Annotated[
        Literal["auto"] | None, Field(description="There are no summaries: thoughts are shown in full.")
    ] = None
    generate_summary: Annotated[Literal["auto"] | None, Field(description="The older name.")] = None


class ResponseStreamOptions(Part):
    include_obfuscation: Annotated[Literal[False] | None, Field(description="Events are never padded.")] = None


class ResponsesRequest(QueuedRequest):
    """Body of POST /v1/responses."""

    not_supported: ClassVar[Mapping[str, OffValues]] = {
        "access_programs": (),
        "background_options": (),
        "context_management": ([],),
        "conversation": (),
        "ec_transfer_params": (),
        "enable_response_messages": (False,),
        "image": (),
        "kv_transfer_params": (),
        "logits_processors": ([],),
        "media_io_kwargs": ({},),
        "mm_processor_kwargs": ({},),
        "moderation": (),
        "previous_input_messages": (),
        "previous_response_messages": (),
        "prompt": (),
        "prompt_cache_options": (),
        "prompt_cache_retention": ("in_memory",),
        "vllm_xargs": ({},),
    }

    input: TextOr[SentItem]
    instructions: str | None = None
    previous_response_id: Annotated[
        str | None, Field(description="The stored response that this one goes on from.")
    ] = None
    store: Annotated[bool | None, Field(description="Keep the response, so that it can be fetched.")] = True
    background: Annotated[bool | None, Field(description="Answer at once with the status queued.")] = False
    stream_options: ResponseStreamOptions | None = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    truncation: Annotated[
        Literal["auto", "disabled"] | None,
        Field(description="auto: the oldest turns are left out when the conversation is too long."),
    ] = "disabled"

    max_output_tokens: Annotated[int | None, Field(ge=1)] = None
    max_tool_calls: Annotated[
        int | None, Field(ge=1, description="Counts tools that the server runs, of which there are none.")
    ] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_logprobs: Annotated[int | None, Field(ge=0, description=f"With include: {LOGPROBS}.")] = None
    top_k: Annotated[int | None, Field(ge=-1, description="0 and -1 mean off.")] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float | None, Field(gt=0)] = None
    seed: Int64 | None = None
    logit_bias: dict[str, float] | None = None
    stop: StopStrings = None
    ignore_eos: bool | None = False
    include_stop_str_in_output: bool | None = False
    skip_special_tokens: bool | None = True
    structured_outputs: StructuredOutputs | None = None
    chat_template_kwargs: TemplateKwargs | None = None
    cache_salt: Annotated[str | None, Field(pattern=r"^[^@/\\\x00]{1,128}$")] = None

    tools: list[Annotated[ResponseTool, BeforeValidator(_function_only)]] | None = None
    tool_choice: ChosenTools | None = None
    parallel_tool_calls: bool | None = True
    text: TextConfig | None = None
    reasoning: Reasoning | None = None

    service_tier: Annotated[
        Literal["auto", "default", "flex", "priority"] | None,
        Field(description="Stands for a priority where none is given: priority for -10, flex for 10, others for 0."),
    ] = None
    metadata: Annotated[dict[str, str] | None, Field(max_length=16)] = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    user: str | None = None

    def conflicts(self) -> list[Problem]:
        problems = super().conflicts()
        if self.background and self.store is False:
            problems.append(Problem("background", "needs store: true, so that the response can be fetched"))
        if self.stream_options is not None and not self.stream:
            problems.append(Problem("stream_options", "is only allowed with stream: true"))
        if self.top_logprobs and not self.include:
            problems.append(Problem("top_logprobs", f"is only allowed with include: [{LOGPROBS!r}]"))
        if not self.input and not self.previous_response_id:
            problems.append(Problem("input", "should not be empty without a previous_response_id"))
        return [*problems, *self._format_conflicts(), *self._tool_conflicts()]

    def _format_conflicts(self) -> list[Problem]:
        asked = self.text.format if self.text else None
        if asked is None or asked.type != "json_schema":
            return []
        missing = [name for name, value in (("name", asked.name), ("schema", asked.schema_)) if value is None]
        return [Problem(f"text.format.{name}", "is required with type json_schema") for name in missing]

    def _tool_conflicts(self) -> list[Problem]:
        known = {tool.name for tool in self.tools or ()}
        match self.tool_choice:
            case "required" if not known:
                return [Problem("tool_choice", "needs tools")]
            case ChosenFunction(name=name) if name not in known:
                return [Problem("tool_choice.name", f"is not one of the tools, got {name[:80]!r}")]
            case AllowedFunctions(tools=allowed) if strange := [
                each.name for each in allowed if each.name not in known
            ]:
                return [Problem("tool_choice.tools", f"should name some of the tools, got {strange[0][:80]!r}")]
        return []

    @property
    def tier_priority(self) -> int:
        """What ``service_tier`` stands for."""
        return TIERS.get(self.service_tier or "default", 0)

    @property
    def end_user(self) -> str | None:
        return self.user

    @property
    def wants_store(self) -> bool:
        return self.store is not False


class CachedTokens(msgspec.Struct, frozen=True):
    cached_tokens: int
    cache_write_tokens: int = 0


class ReasoningTokens(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class ResponseUsage(msgspec.Struct, frozen=True, kw_only=True):
    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class ResponseFailure(msgspec.Struct, frozen=True):
    code: str
    message: str


class IncompleteDetails(msgspec.Struct, frozen=True):
    reason: str


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """``status``: queued, in_progress, completed, incomplete, failed or cancelled."""

    id: str
    object: str = "response"
    created_at: int
    status: str
    background: bool
    error: ResponseFailure | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: list[OutputItem] = []
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: JsonObject
    safety_identifier: str | None
    service_tier: str
    store: bool
    temperature: float
    text: JsonObject
    tool_choice: Any
    tools: list[JsonObject]
    top_logprobs: int
    top_p: float
    truncation: str
    usage: ResponseUsage | None = None
    user: str | None
    metadata: dict[str, str]


class DeletedResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of DELETE /v1/responses/{id}."""

    id: str
    object: str = "response"
    deleted: bool = True


class ItemList(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of GET /v1/responses/{id}/input_items."""

    object: str = "list"
    data: list[JsonObject]
    first_id: str | None
    last_id: str | None
    has_more: bool
