"""The fields that chat and text completions share: decoding, stopping, streaming, and what is not supported."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from headrace_api.schemas.base import Int64, JsonObject, OffValues, StopStrings, StreamOptions
from headrace_api.schemas.problems import Problem
from headrace_api.schemas.structured import StructuredRequest

Penalty = Annotated[float, Field(ge=-2, le=2)]
BadWords = Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=128)]
TokenId = Annotated[int, Field(ge=0)]

NOT_SUPPORTED: Mapping[str, OffValues] = {
    "cache_salt": (),
    "ec_transfer_params": (),
    "kv_transfer_params": (),
    "length_penalty": (1.0, 1),
    "logits_processors": ([],),
    "logprob_token_ids": (),
    "mm_payload": (),
    "mm_processor_kwargs": ({},),
    "prompt_embeds": (),
    "repetition_detection": (),
    "return_token_offsets": (False,),
    "return_weight_versions": (False,),
    "routed_experts_prompt_start": (),
    "service_tier": ("auto", "default"),
    "session_id": (),
    "stream_interval": (1,),
    "thinking_token_budget": (-1,),
    "truncate_prompt_tokens": (),
    "truncation_side": (),
    "use_beam_search": (False,),
    "vllm_xargs": ({},),
    "watermarking": (False,),
}


class GenerationRequest(StructuredRequest):
    """A null stands for the field's default throughout, as clients of these endpoints send it."""

    not_supported: ClassVar[Mapping[str, OffValues]] = NOT_SUPPORTED

    model: Annotated[str | None, Field(description="May be left out while one model is served.")] = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Annotated[int | None, Field(ge=1, le=128)] = 1
    best_of: Annotated[int | None, Field(ge=1, le=128, description="Only equal to n.")] = None

    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=-1, description="0 and -1 mean off.")] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float | None, Field(gt=0)] = None
    seed: Int64 | None = None
    logit_bias: Annotated[dict[str, float] | None, Field(description="Token id to bias, within -100 and 100.")] = None
    allowed_token_ids: Annotated[list[TokenId] | None, Field(min_length=1)] = None
    bad_words: BadWords | None = None

    stop: StopStrings = None
    stop_token_ids: list[TokenId] | None = None
    min_tokens: Annotated[int | None, Field(ge=0)] = 0
    ignore_eos: bool | None = False
    include_stop_str_in_output: bool | None = False
    skip_special_tokens: bool | None = True
    spaces_between_special_tokens: bool | None = True

    prompt_logprobs: Annotated[int | None, Field(ge=0)] = None
    return_tokens_as_token_ids: bool | None = None
    return_token_ids: bool | None = False
    echo: bool | None = False
    priority: Annotated[
        int | None,
        Field(ge=-(2**53) + 1, le=2**53 - 1, description="Lower goes first; default 0. Redis orders by doubles."),
    ] = None
    timeout: Annotated[
        float | None,
        Field(gt=0, description="Seconds after which the request is given up; the header X-Request-Timeout as well."),
    ] = None
    request_id: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z0-9._:\-]{1,128}$",
            description="Base of the answer's id, unless the header X-Request-Id is sent.",
        ),
    ] = None
    user: str | None = None
    metadata: JsonObject | None = None

    @field_validator("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
    @classmethod
    def _as_float(cls, value: float | None) -> float | None:
        return None if value is None else float(value)

    def conflicts(self) -> list[Problem]:
        problems = super().conflicts()
        if self.stream_options is not None and not self.stream:
            problems.append(Problem("stream_options", "is only allowed with stream: true"))
        if self.stream_options is not None and self.stream_options.include_obfuscation:
            problems.append(
                Problem("stream_options.include_obfuscation", "is not supported yet; leave it out or send false")
            )
        if self.best_of is not None and self.best_of != self.choices:
            problems.append(Problem("best_of", f"is not supported yet unless equal to n ({self.choices})"))
        if self.stream and self.prompt_logprobs is not None:
            problems.append(Problem("prompt_logprobs", "is not allowed with stream: true"))
        return problems

    def unknown_fields(self) -> list[str]:
        nested = (self.stream_options.model_extra if self.stream_options else None) or {}
        return [*super().unknown_fields(), *(f"stream_options.{name}" for name in nested)]

    @property
    def choices(self) -> int:
        """How many continuations of each prompt are asked for."""
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        """Usage on every chunk; asks for the last one too, as the peers read it."""
        return self.include_usage and bool(self.stream_options and self.stream_options.continuous_usage_stats)
