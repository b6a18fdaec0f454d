"""SamplingParams: how an answer is to be drawn, in vLLM's words, and what the engine makes of it."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from headrace_shared.model_card import GenerationDefaults
from headrace_shared.protocol.sampling import SamplingSpec, StoppingSpec
from headrace_shared.text.tokenizer import Tokenizer

_LOWEST_TEMPERATURE = 0.01
"""Below it the logits' quotients overflow."""


def _list(value: object) -> object:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


TokenId = Annotated[int, Field(ge=0)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Words = Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_list)]
TokenIds = Annotated[list[TokenId], BeforeValidator(_list)]


class SamplingParams(BaseModel):
    """Raises pydantic's ValidationError, a ValueError, that names what is not known or out of range.

    ``max_tokens`` None: as many as the context has room for. ``logprobs`` and ``prompt_logprobs``: so many of the most
    likely tokens beside each token, -1: the whole vocabulary. ``seed`` None: one made from the LLM's own and the
    prompt's place among all that it has been given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: Annotated[int, Field(ge=1)] = 1
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    seed: int | None = None
    logit_bias: dict[TokenId, float] | None = None
    allowed_token_ids: Annotated[list[TokenId], Field(min_length=1)] | None = None
    bad_words: Words = []
    stop: Words = []
    stop_token_ids: TokenIds = []
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    max_tokens: Annotated[int, Field(ge=0)] | None = 16
    min_tokens: Annotated[int, Field(ge=0)] = 0
    logprobs: Annotated[int, Field(ge=-1)] | None = None
    prompt_logprobs: Annotated[int, Field(ge=-1)] | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True

    @model_validator(mode="after")
    def _agree(self) -> "SamplingParams":
        if self.n > 1 and self.temperature == 0:
            raise ValueError("n: must be 1 with temperature 0, where every choice would be the same")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError("min_tokens: is more than max_tokens")
        if self.max_tokens == 0 and self.n > 1:
            raise ValueError("n: must be 1 with max_tokens 0")
        return self

    @classmethod
    def of_defaults(cls, defaults: GenerationDefaults) -> "SamplingParams":
        """What a model suggests."""
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens")
        suggested: dict[str, Any] = {name: getattr(defaults, name) for name in names}
        return cls(**{name: value for name, value in suggested.items() if value is not None})


@dataclass(frozen=True)
class Model:
    """What parameters are checked against."""

    tokenizer: Tokenizer
    vocab_size: int
    max_logprobs: int

    def problems(self, params: SamplingParams) -> list[str]:
        """What this model cannot do of it, each with the parameter's name."""
        found = []
        limit = self.vocab_size if self.max_logprobs == -1 else self.max_logprobs
        for name in ("logprobs", "prompt_logprobs"):
            asked = getattr(params, name)
            if asked is not None and (self.vocab_size if asked == -1 else asked) > limit:
                found.append(f"{name}: at most {limit} unless the LLM is made with a larger max_logprobs, got {asked}")
        token_ids: dict[str, Iterable[int]] = {
            "logit_bias": params.logit_bias or {},
            "allowed_token_ids": params.allowed_token_ids or [],
            "stop_token_ids": params.stop_token_ids,
        }
        for name, ids in token_ids.items():
            if unknown := [token_id for token_id in ids if token_id >= self.vocab_size]:
                found.append(f"{name}: the vocabulary has {self.vocab_size} tokens, got {unknown[0]}")
        return found

    def sampling(self, params: SamplingParams, seed: int) -> SamplingSpec:
        """``seed``: for parameters that have none."""
        greedy = params.temperature == 0
        return SamplingSpec(
            seed=seed if params.seed is None else params.seed,
            temperature=0.0 if greedy else max(params.temperature, _LOWEST_TEMPERATURE),
            top_p=1.0 if greedy else params.top_p,
            top_k=params.top_k if 0 < params.top_k < self.vocab_size and not greedy else 0,
            min_p=0.0 if greedy else params.min_p,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            repetition_penalty=params.repetition_penalty,
            logit_bias={
                token_id: max(-100.0, min(100.0, bias)) for token_id, bias in (params.logit_bias or {}).items()
            },
            allowed_token_ids=None
            if params.allowed_token_ids is None
            else tuple(dict.fromkeys(params.allowed_token_ids)),
            bad_words=self._bad_words(params.bad_words),
            logprobs=self._count(params.logprobs),
            prompt_logprobs=self._count(params.prompt_logprobs),
        )

    def _count(self, asked: int | None) -> int | None:
        return self.vocab_size if asked == -1 else asked

    def _bad_words(self, words: Iterable[str]) -> tuple[tuple[int, ...], ...]:
        """Each word as it is written at the very beginning, and after a blank."""
        sequences = dict.fromkeys(
            tuple(self.tokenizer.encode(blank + word.lstrip(" "), add_special_tokens=False))
            for word in words
            for blank in ("", " ")
        )
        sequences.pop((), None)
        return tuple(sequences)


def stopping(params: SamplingParams, room_tokens: int) -> StoppingSpec:
    """``room_tokens``: what the prompt leaves of the context."""
    return StoppingSpec(
        max_tokens=room_tokens if params.max_tokens is None else min(params.max_tokens, room_tokens),
        min_tokens=params.min_tokens,
        stop=tuple(dict.fromkeys(params.stop)),
        stop_token_ids=tuple(dict.fromkeys(params.stop_token_ids)),
        ignore_eos=params.ignore_eos,
        include_stop_str_in_output=params.include_stop_str_in_output,
        skip_special_tokens=params.skip_special_tokens,
        spaces_between_special_tokens=params.spaces_between_special_tokens,
    )


def derived_seed(seed: int, number: int) -> int:
    """That of the ``number``-th prompt of an LLM."""
    return int.from_bytes(hashlib.blake2b(b"%d/%d" % (seed, number), digest_size=8).digest()) >> 1
