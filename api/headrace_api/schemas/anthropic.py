"""POST /v1/messages: the request and the answer, as Anthropic's API words them."""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import BeforeValidator, Field

from headrace_api.schemas.base import JsonObject, OffValues, Part, TextOr
from headrace_api.schemas.problems import Problem
from headrace_api.schemas.queued import LONGEST_NAME, QueuedRequest

ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]


class _Part(Part):
    """What carries ``cache_control`` asks for nothing: every prompt's beginning is cached."""

    says_nothing = frozenset({"cache_control", "caller"})


class TextPart(_Part):
    type: Literal["text"]
    text: str
    citations: Annotated[list[Any] | None, Field(max_length=0)] = None


class ThinkingPart(_Part):
    """The signature is not looked at."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class ToolUsePart(_Part):
    type: Literal["tool_use"]
    id: Annotated[str, Field(min_length=1)]
    name: ToolName
    input: JsonObject


def _text_only(value: object) -> object:
    """Says of what else there is that it is refused, by its name."""
    if isinstance(value, dict) and value.get("type") not in ("text", "thinking", "tool_use", "tool_result"):
        raise ValueError(f"a block of type {str(value.get('type'))[:40]!r} is not supported: the models here take text")
    return value


TextAlone = Annotated[TextPart, BeforeValidator(_text_only)]


class ToolResultPart(_Part):
    type: Literal["tool_result"]
    tool_use_id: Annotated[str, Field(min_length=1)]
    content: TextOr[TextAlone] | None = None
    is_error: bool | None = False


SentPart = Annotated[
    TextPart | ThinkingPart | ToolUsePart | ToolResultPart, Field(discriminator="type"), BeforeValidator(_text_only)
]


class Turn(_Part):
    """One message. What a role may not say is refused where the conversation is made."""

    role: Literal["user", "assistant", "system"]
    content: TextOr[SentPart]


class ClientTool(_Part):
    """A tool that the client runs."""

    type: Literal["custom"] | None = None
    name: ToolName
    description: str | None = None
    input_schema: JsonObject
    strict: bool | None = None


class ToolChoice(_Part):
    type: Literal["auto", "any", "tool", "none"]
    name: ToolName | None = None
    disable_parallel_tool_use: bool | None = False


class Thinking(_Part):
    """``adaptive``: as the chat template has it when nobody asks."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int | None, Field(ge=1)] = None
    display: Annotated[
        Literal["summarized"] | None, Field(description="Thoughts are shown in full, whatever this says.")
    ] = None


class OutputFormat(_Part):
    type: Literal["json_schema"]
    schema_: Annotated[JsonObject, Field(alias="schema")]


class OutputConfig(_Part):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class UserMetadata(_Part):
    user_id: Annotated[str | None, Field(max_length=512)] = None


class Conversation(QueuedRequest):
    """What /v1/messages and /v1/messages/count_tokens have in common."""

    not_supported: ClassVar[Mapping[str, OffValues]] = {
        "container": (),
        "context_management": ({"edits": []}, {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}),
        "diagnostics": (),
        "inference_geo": (),
        "mcp_servers": ([],),
        "output_format": (),
        "speed": ("standard",),
        "user_profile_id": (),
        "workspace_id": (),
    }

    messages: Annotated[list[Turn], Field(min_length=1)]
    system: TextOr[TextAlone] | None = None
    tools: Annotated[
        list[ClientTool] | None, Field(description="Only tools that the client runs, not those of Anthropic's servers.")
    ] = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: Annotated[
        JsonObject | None, Field(description="Asks for nothing here: every prompt's beginning is cached.")
    ] = None

    def conflicts(self) -> list[Problem]:
        problems = super().conflicts()
        choice = self.tool_choice
        if choice is not None and (choice.type == "tool") != (choice.name is not None):
            problems.append(Problem("tool_choice.name", "goes with the type tool, and only with it"))
        if choice is not None and choice.type in ("any", "tool") and not self.tools:
            problems.append(Problem("tool_choice", f"of the type {choice.type} needs tools"))
        if self.thinking is not None and (self.thinking.type == "enabled") != (self.thinking.budget_tokens is not None):
            problems.append(Problem("thinking.budget_tokens", "goes with the type enabled, and only with it"))
        return problems


class CountTokensRequest(Conversation):
    """Body of POST /v1/messages/count_tokens."""


class MessagesRequest(Conversation):
    """Body of POST /v1/messages."""

    max_tokens: Annotated[int, Field(ge=1)]
    stop_sequences: list[Annotated[str, Field(min_length=1)]] | None = None
    temperature: Annotated[float | None, Field(ge=0, le=1)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=0, description="0 means off.")] = None
    metadata: UserMetadata | None = None
    service_tier: Annotated[
        Literal["auto", "standard_only"] | None, Field(description="There is one tier; see priority.")
    ] = None

    def conflicts(self) -> list[Problem]:
        problems = super().conflicts()
        budget = self.thinking.budget_tokens if self.thinking else None
        if budget is not None and budget >= self.max_tokens:
            problems.append(
                Problem("thinking.budget_tokens", f"should be below max_tokens ({self.max_tokens}), got {budget}")
            )
        return problems

    @property
    def end_user(self) -> str | None:
        """Clients join several ids to one that is longer than a tenant's name may be."""
        name = self.metadata.user_id if self.metadata else None
        if name is None or len(name) <= LONGEST_NAME:
            return name
        return "user-" + hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


class TextBlock(msgspec.Struct, frozen=True, tag="text"):
    text: str


class ThinkingBlock(msgspec.Struct, frozen=True, tag="thinking"):
    thinking: str
    signature: str


class ToolUseBlock(msgspec.Struct, frozen=True, tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


Block = TextBlock | ThinkingBlock | ToolUseBlock


class ThinkingTokens(msgspec.Struct, frozen=True):
    thinking_tokens: int


class MessageUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The prompt's tokens are ``input_tokens`` and ``cache_read_input_tokens`` together."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int
    output_tokens_details: ThinkingTokens | UnsetType = UNSET
    """When the answer is complete."""


class StartUsage(MessageUsage, frozen=True, kw_only=True):
    """Of a message; that of its end is without the tier."""

    service_tier: str = "standard"


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of POST /v1/messages without ``stream``."""

    id: str
    type: str = "message"
    role: str = "assistant"
    model: str
    content: list[Block]
    stop_reason: str | None
    stop_sequence: str | None
    usage: StartUsage


class TokenCount(msgspec.Struct, frozen=True):
    """Answer of POST /v1/messages/count_tokens."""

    input_tokens: int


class MessageStart(msgspec.Struct, frozen=True, tag="message_start"):
    message: Message


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """So that clients see that the server works on it."""


class BlockStart(msgspec.Struct, frozen=True, tag="content_block_start"):
    index: int
    content_block: Block


class TextDelta(msgspec.Struct, frozen=True, tag="text_delta"):
    text: str


class ThinkingDelta(msgspec.Struct, frozen=True, tag="thinking_delta"):
    thinking: str


class SignatureDelta(msgspec.Struct, frozen=True, tag="signature_delta"):
    signature: str


class InputJsonDelta(msgspec.Struct, frozen=True, tag="input_json_delta"):
    partial_json: str


class BlockDelta(msgspec.Struct, frozen=True, tag="content_block_delta"):
    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta


class BlockStop(msgspec.Struct, frozen=True, tag="content_block_stop"):
    index: int


class Ending(msgspec.Struct, frozen=True):
    stop_reason: str
    stop_sequence: str | None


class MessageDelta(msgspec.Struct, frozen=True, tag="message_delta"):
    delta: Ending
    usage: MessageUsage


class MessageStop(msgspec.Struct, frozen=True, tag="message_stop"):
    """The last event."""


MessageEvent = MessageStart | Ping | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop
