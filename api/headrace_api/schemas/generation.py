"""The fields that chat and text completions share: decoding, stopping, streaming, and what is not supported."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from headrace_api.schemas.base import Int64, JsonObject, OffValues, StopStrings, StreamOptions
from headrace_api.schemas.decoding import LogitsProcessor, RepetitionDetection
from headrace_api.schemas.problems import Problem
from headrace_api.schemas.queued import QueuedRequest
from headrace_api.schemas.structured import StructuredRequest

Penalty = Annotated[float, Field(ge=-2, le=2)]
BadWords = Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=128)]
TokenId = Annotated[int, Field(ge=0)]

NOT_SUPPORTED: Mapping[str, OffValues] = {
    "ec_transfer_params": (),
    "kv_transfer_params": (),
    "mm_payload": (),
    "mm_processor_kwargs": ({},),
    "prompt_embeds": (),
    "return_token_offsets": (False,),
    "return_weight_versions": (False,),
    "routed_experts_prompt_start": (),
    "thinking_token_budget": (-1,),
    "vllm_xargs": ({},),
    "watermarking": (False,),
}

TIERS = {"priority": -10, "flex": 10}
"""What service tiers stand for, as priorities; others for 0."""


class GenerationRequest(StructuredRequest, QueuedRequest):
    """A null stands for the field's default throughout, as clients of these endpoints send it."""

    not_supported: ClassVar[Mapping[str, OffValues]] = NOT_SUPPORTED

    stream_options: StreamOptions | None = None
    stream_interval: Annotated[
        int | None,
        Field(ge=1, description="With stream: tokens per event of a choice, but for its first and its last event."),
    ] = None
    n: Annotated[int | None, Field(ge=1, le=128)] = 1
    best_of: Annotated[
        int | None,
        Field(
            ge=1,
            le=128,
            description="Samples of which the n most likely are shown; not with stream, nor greedy. "
            "With use_beam_search the number of beams, n if not said.",
        ),
    ] = None
    use_beam_search: Annotated[
        bool | None,
        Field(description="Search for the n most likely answers instead of drawing them; told when all are known."),
    ] = False
    length_penalty: Annotated[
        float | None,
        Field(description="With use_beam_search: answers are compared by log-probability / tokens ** length_penalty."),
    ] = 1.0

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

    truncate_prompt_tokens: Annotated[
        int | None,
        Field(ge=-1, description="Keep so many of the prompt's tokens; -1: as many as leave room for an answer."),
    ] = None
    truncation_side: Annotated[
        Literal["left", "right"] | None, Field(description="Where tokens are cut off; the left if not said.")
    ] = None

    prompt_logprobs: Annotated[int | None, Field(ge=-1, description="-1: of the whole vocabulary.")] = None
    logprob_token_ids: Annotated[
        list[TokenId] | None,
        Field(
            min_length=1,
            max_length=128,
            description="With logprobs: tell of these tokens, not of the most likely ones.",
        ),
    ] = None
    logits_processors: Annotated[
        list[LogitsProcessor] | None,
        Field(max_length=16, description="Own code that the server's operator allows, by the name to import."),
    ] = None
    repetition_detection: RepetitionDetection | None = None
    return_tokens_as_token_ids: bool | None = None
    return_token_ids: bool | None = False
    echo: bool | None = False
    cache_salt: Annotated[
        str | None,
        Field(
            pattern=r"^[^@/\\\x00]{1,128}$",
            description="Requests share cached prompts only with those of the same salt.",
        ),
    ] = None
    service_tier: Annotated[
        Literal["auto", "default", "flex", "priority"] | None,
        Field(description="Stands for a priority where none is given: priority for -10, flex for 10, others for 0."),
    ] = None
    include_metrics: Annotated[
        bool | None,
        Field(description="Tell the request's timings in the answer, or with the stream's usage; for one choice."),
    ] = False
    user: str | None = None
    session_id: Annotated[
        str | None,
        Field(description="Without effect: workers that have the conversation cached are found by its beginning."),
    ] = None
    metadata: JsonObject | None = None

    @field_validator(
        "temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "length_penalty"
    )
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
        if self.stream_interval not in (None, 1) and not self.stream:
            problems.append(Problem("stream_interval", "is only allowed with stream: true"))
        detection = self.repetition_detection
        if detection is not None and 0 < detection.max_pattern_size < (detection.min_pattern_size or 1):
            problems.append(Problem("repetition_detection.min_pattern_size", "should not be above max_pattern_size"))
        problems += self._beam_conflicts() if self.use_beam_search else self._best_of_conflicts()
        if self.include_metrics and self.samples > 1:
            problems.append(Problem("include_metrics", f"is for one choice alone, got n {self.samples}"))
        if self.include_metrics and self.stream and not self.include_usage:
            problems.append(Problem("include_metrics", "needs stream_options.include_usage with stream: true"))
        if self.truncate_prompt_tokens == 0:
            problems.append(Problem("truncate_prompt_tokens", "should be at least 1, or -1 for as many as fit, got 0"))
        if self.truncation_side is not None and self.truncate_prompt_tokens is None:
            problems.append(Problem("truncation_side", "is only allowed with truncate_prompt_tokens"))
        if self.stream and self.prompt_logprobs:
            problems.append(Problem("prompt_logprobs", f"should be 0 with stream: true, got {self.prompt_logprobs}"))
        return problems

    def _beam_conflicts(self) -> list[Problem]:
        """A search draws nothing, and sees tokens, not text."""
        senseless = {
            "stop": bool(self.stop),
            "repetition_detection": self.repetition_detection is not None,
            "top_p": self.top_p not in (None, 1),
            "top_k": self.top_k not in (None, 0, -1),
            "min_p": self.min_p not in (None, 0),
        }
        problems = [
            Problem(name, "is not possible with use_beam_search") for name, is_set in senseless.items() if is_set
        ]
        return problems + self._too_few_samples()

    def _too_few_samples(self) -> list[Problem]:
        if self.sequences < self.choices:
            return [Problem("best_of", f"should be at least n ({self.choices}), got {self.best_of}")]
        return []

    def _best_of_conflicts(self) -> list[Problem]:
        if self.length_penalty not in (None, 1):
            return [Problem("length_penalty", "is only allowed with use_beam_search: true"), *self._too_few_samples()]
        if self.sequences <= self.choices:
            return self._too_few_samples()
        if self.stream:
            return [Problem("best_of", f"should be equal to n ({self.choices}) with stream: true, got {self.best_of}")]
        if self.temperature == 0:
            return [Problem("best_of", "is not possible with temperature 0: all samples would be the same")]
        return []

    @property
    def choices(self) -> int:
        """How many continuations of each prompt are asked for."""
        return self.n or 1

    @property
    def samples(self) -> int:
        """How many a worker tells, of which ``choices`` are shown: a search tells the best ones alone."""
        return self.choices if self.use_beam_search else self.sequences

    @property
    def sequences(self) -> int:
        """How many a worker computes at once."""
        return self.best_of or self.choices

    @property
    def tier_priority(self) -> int:
        """What ``service_tier`` stands for."""
        return TIERS.get(self.service_tier or "default", 0)

    @property
    def end_user(self) -> str | None:
        return self.user

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        """Usage on every chunk; asks for the last one too, as the peers read it."""
        return self.include_usage and bool(self.stream_options and self.stream_options.continuous_usage_stats)
