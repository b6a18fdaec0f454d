"""SpeculativeConfig: how a worker guesses tokens ahead, under the names of vLLM's ``--speculative-config``."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from headrace_shared.settings_report import problems_of

METHODS = ("ngram", "suffix", "draft_model")
_LEARNED_HEADS = frozenset(
    {"eagle", "eagle3", "medusa", "mlp_speculator", "mtp", "deepseek_mtp", "extract_hidden_states", "dflash"}
)
"""And whatever ends with ``_mtp``."""
_OLDER = {
    "speculative_model": "model",
    "num_speculative_tokens": "num_speculative_tokens",
    "spec_method": "method",
    "ngram_prompt_lookup_max": "prompt_lookup_max",
    "ngram_prompt_lookup_min": "prompt_lookup_min",
    "speculative_disable_by_batch_size": "disable_by_batch_size",
    "speculative_max_model_len": "max_model_len",
}
"""Options of their own that others' start scripts have, and what they mean in the JSON."""
_NGRAM_MODELS = ("ngram", "[ngram]")
_DEFAULT_NGRAM = 5
_SUFFIX_TOKENS = 24


def _method(value: object) -> object:
    if isinstance(value, str) and (value in _LEARNED_HEADS or value.endswith("_mtp")):
        raise ValueError(
            f"{value} needs heads that are trained for one model, which are not supported; use {', '.join(METHODS)}"
        )
    if isinstance(value, str) and value not in METHODS:
        raise ValueError(f"must be one of {', '.join(METHODS)}")
    return value


def speculative_config(given: Mapping[str, Any], options: Mapping[str, Any]) -> "SpeculativeConfig | None":
    """``given`` as in the JSON, and what the older options say beside it; None when nothing is asked for.

    Raises ValueError that names what is wrong, and for an option that says something else than the JSON.
    """
    found = dict(given)
    for option, name in _OLDER.items():
        value = options.get(option)
        if value is None:
            continue
        if found.get(name, value) != value:
            raise ValueError(f"{option} is {value}, and speculative_config says {found[name]}")
        found[name] = value
    if not found:
        return None
    try:
        return SpeculativeConfig.model_validate(found)
    except ValidationError as error:
        told = [f"speculative_config: {problem}" for problem in problems_of(error)]
        raise ValueError("; ".join(told)) from error


class SpeculativeConfig(BaseModel):
    """What is left out is filled in: everything a method needs is there, and nothing that it has no use for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Annotated[Literal["ngram", "suffix", "draft_model"] | None, BeforeValidator(_method)] = None
    """Default: ``draft_model`` with a model, ``ngram`` with one of ``prompt_lookup_*``."""
    model: str | None = None
    """The draft model: a directory, GGUF file or Hugging Face id."""
    revision: str | None = None
    num_speculative_tokens: Annotated[int | None, Field(ge=1, le=64)] = None
    prompt_lookup_max: Annotated[int | None, Field(ge=1, le=64)] = None
    prompt_lookup_min: Annotated[int | None, Field(ge=1, le=64)] = None
    disable_by_batch_size: Annotated[int | None, Field(ge=1)] = None
    """So many sequences in a step and more are computed without guesses, fewer always with some; None: as far as they pay."""
    max_model_len: Annotated[int | None, Field(ge=1)] = None
    """Longer sequences get no guesses of the draft model."""
    draft_tensor_parallel_size: Literal[1] | None = None
    suffix_decoding_max_tree_depth: Annotated[int | None, Field(ge=3, le=256)] = None
    suffix_decoding_max_cached_requests: Annotated[int | None, Field(ge=0)] = None
    suffix_decoding_max_spec_factor: Annotated[float | None, Field(gt=0)] = None
    suffix_decoding_min_token_prob: Annotated[float | None, Field(ge=0, le=1)] = None

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        found = dict(given)
        if found.get("model") in _NGRAM_MODELS and found.get("method") in (None, "ngram"):
            found |= {"model": None, "method": "ngram"}
        if found.get("method") is None:
            looks_up = any(found.get(f"prompt_lookup_{end}") is not None for end in ("min", "max"))
            found["method"] = "draft_model" if found.get("model") is not None else "ngram" if looks_up else None
        if found["method"] == "ngram":
            low, high = found.get("prompt_lookup_min"), found.get("prompt_lookup_max")
            known = next((value for value in (low, high) if value is not None), _DEFAULT_NGRAM)
            found |= {
                "prompt_lookup_min": known if low is None else low,
                "prompt_lookup_max": known if high is None else high,
            }
        elif found["method"] == "suffix" and found.get("num_speculative_tokens") is None:
            found["num_speculative_tokens"] = found.get("suffix_decoding_max_tree_depth") or _SUFFIX_TOKENS
        return found

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = [*self._missing(), *self._useless()]
        if (self.prompt_lookup_min or 0) > (self.prompt_lookup_max or self.prompt_lookup_min or 0):
            problems.append("prompt_lookup_min must not be above prompt_lookup_max")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def tokens(self) -> int:
        """Most guesses per sequence and step."""
        return self.num_speculative_tokens or 1

    def _missing(self) -> list[str]:
        problems = []
        if self.method is None:
            problems.append(f"method is needed: {', '.join(METHODS)}")
        elif self.num_speculative_tokens is None:
            problems.append("num_speculative_tokens is needed: how many tokens to guess in a step")
        if self.method == "draft_model" and self.model is None:
            problems.append("model is needed: the draft model")
        return problems

    def _useless(self) -> list[str]:
        """What a method has no use for is refused: it would be passed over."""
        named = {
            "ngram": ("prompt_lookup_min", "prompt_lookup_max"),
            "suffix": tuple(name for name in type(self).model_fields if name.startswith("suffix_decoding_")),
            "draft_model": ("model", "revision", "max_model_len"),
        }
        return [
            f"{name} belongs to method {method}"
            for method, names in named.items()
            if self.method is not None and method != self.method
            for name in names
            if getattr(self, name) is not None
        ]
