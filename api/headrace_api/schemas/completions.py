"""POST /v1/completions: the request, the answer and the stream's chunks."""

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import Field, PlainValidator, WithJsonSchema

from headrace_api.schemas.base import PromptLogprobs, Usage
from headrace_api.schemas.generation import GenerationRequest
from headrace_api.schemas.problems import Problem
from headrace_api.schemas.request_metrics import RequestMetrics

PromptItem = str | list[int]
MOST_PROMPTS = 1024


def _prompts(value: object) -> list[PromptItem]:
    """Every legal form as a list of prompts, each a non-empty text or a non-empty list of token ids."""
    if isinstance(value, str) or _is_ids(value):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(item, str) or _is_ids(item) for item in value):
        raise ValueError(
            "should be a string, a list of strings, a list of token ids (integers from 0) or a list of such lists"
        )
    if not 1 <= len(value) <= MOST_PROMPTS:
        raise ValueError(f"should hold between 1 and {MOST_PROMPTS} prompts")
    if len({isinstance(item, str) for item in value}) > 1:
        raise ValueError("should hold either texts or lists of token ids, not both")
    if not all(value):
        raise ValueError("should not be empty, nor hold an empty prompt")
    return value


def _is_ids(value: object) -> bool:
    """A list that can only be read as token ids; an empty one is left to the caller."""
    return isinstance(value, list) and bool(value) and all(type(item) is int and item >= 0 for item in value)


_IDS_SCHEMA = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
Prompts = Annotated[
    list[PromptItem],
    PlainValidator(_prompts),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": MOST_PROMPTS},
                _IDS_SCHEMA,
                {"type": "array", "items": _IDS_SCHEMA, "minItems": 1, "maxItems": MOST_PROMPTS},
            ]
        }
    ),
]


class CompletionRequest(GenerationRequest):
    """Body of POST /v1/completions."""

    prompt: Prompts
    max_tokens: Annotated[int | None, Field(ge=0, description="0 only with echo: the prompt is scored.")] = 16
    logprobs: Annotated[int | None, Field(ge=-1, description="-1: of the whole vocabulary.")] = None
    add_special_tokens: bool | None = True
    suffix: Annotated[
        str | None, Field(description="What follows the answer; for models that can fill in the middle of a text.")
    ] = None

    def conflicts(self) -> list[Problem]:
        problems = super().conflicts()
        if self.max_tokens == 0 and not self.echo:
            problems.append(Problem("max_tokens", "should be at least 1 unless echo is true, got 0"))
        if self.include_metrics and len(self.prompt) > 1:
            problems.append(Problem("include_metrics", f"is for one prompt alone, got {len(self.prompt)}"))
        if self.logprob_token_ids is not None and self.logprobs is None:
            problems.append(Problem("logprob_token_ids", "is only allowed with logprobs"))
        if self.use_beam_search and self.stream:
            problems.append(Problem("stream", "is not possible with use_beam_search"))
        if self.use_beam_search and self.max_tokens == 0:
            problems.append(Problem("max_tokens", "should be at least 1 with use_beam_search, got 0"))
        if self.suffix and self.echo:
            problems.append(Problem("suffix", "is not possible with echo"))
        if self.suffix and not all(isinstance(item, str) for item in self.prompt):
            problems.append(Problem("suffix", "is only possible with prompts that are texts"))
        return problems


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """Four lists of one entry per token. ``text_offset`` counts characters from the choice's beginning."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(msgspec.Struct, frozen=True):
    """One continuation of one prompt: ``index`` = prompt number x n + sample number."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str
    stop_reason: str | int | None
    prompt_logprobs: PromptLogprobs | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of POST /v1/completions without ``stream``."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage
    metrics: RequestMetrics | UnsetType = UNSET
    """Timings, for a request with `include_metrics`."""
    service_tier: str | UnsetType = UNSET


class CompletionChunkChoice(msgspec.Struct, frozen=True):
    """One choice's part of a chunk. ``stop_reason`` is there on the choice's last one."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | UnsetType | None = UNSET
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class CompletionChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a streamed answer."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    """Null on the chunks before the one that tells it, as OpenAI writes them."""
    metrics: RequestMetrics | UnsetType = UNSET
    """On the chunk with the usage, for a request with `include_metrics`."""
    service_tier: str | UnsetType = UNSET
