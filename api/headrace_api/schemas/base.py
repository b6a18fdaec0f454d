"""What every request body has in common: strict types, and an answer for every field it knows or does not."""

from collections.abc import Iterator, Mapping
from functools import cache
from types import UnionType
from typing import Annotated, Any, ClassVar, Self, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import from_json

from headrace_api.schemas.problems import Problem, problems_of, refuse
from headrace_shared.errors import InvalidRequestError

Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
OffValues = tuple[object, ...]
JsonObject = dict[str, Any]


class RequestModel(BaseModel):
    """A request body: exact types, no NaN; fields that nobody knows are kept apart, not refused."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, protected_namespaces=())

    not_supported: ClassVar[Mapping[str, OffValues]] = {}
    """Fields of the specifications that this server does not act on, with the values (besides null)
    that ask for nothing and are therefore accepted."""
    replaced: ClassVar[Mapping[str, str]] = {}
    """Of those the ones that their specification has given up, and what it has put in their place."""

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, body: Any) -> Any:
        """JSON has one kind of numbers: 16.0 is as good as 16 where a whole one is wanted."""
        if not isinstance(body, dict):
            return body
        whole = {
            name: int(value)
            for name, value in body.items()
            if isinstance(value, float) and value.is_integer() and name in _wanting_whole_numbers(cls)
        }
        return {**body, **whole} if whole else body

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The checked request. Raises InvalidRequestError that names everything wrong at once."""
        try:
            body = from_json(data, allow_inf_nan=False)
        except ValueError as error:
            raise InvalidRequestError(f"The body is not valid JSON: {error}.") from None
        if not isinstance(body, dict):
            raise InvalidRequestError("The body must be a JSON object.")
        return cls.of(body)

    @classmethod
    def of(cls, body: JsonObject) -> Self:
        """The same for a body that is plain JSON values already."""
        problems = [
            Problem(name, _refusal(off, cls.replaced.get(name)))
            for name, off in cls.not_supported.items()
            if not _asks_for_nothing(body.get(name), off)
        ]
        try:
            request = cls.model_validate(body)
        except ValidationError as error:
            raise refuse([*problems_of(error, body), *problems]) from None
        problems += request.conflicts()
        if problems:
            raise refuse(problems)
        return request

    def conflicts(self) -> list[Problem]:
        """What is wrong between fields that are each right alone."""
        return []

    def unknown_fields(self) -> list[str]:
        """Paths in the body that neither this server nor the specifications know."""
        return [name for name in _unknown(self, "") if name not in self.not_supported]


@cache
def _wanting_whole_numbers(model: type[BaseModel]) -> frozenset[str]:
    """Fields that hold an integer or nothing."""
    return frozenset(
        field.alias or name for name, field in model.model_fields.items() if _kinds(field.annotation) == {int}
    )


def _kinds(annotation: Any) -> set[Any]:
    """The types of a union, or the one there is; null aside."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return {kind for part in get_args(annotation) for kind in _kinds(part)}
    return {annotation} - {type(None)}


class Part(BaseModel):
    """An object inside a request body."""

    model_config = ConfigDict(strict=True, extra="allow")

    says_nothing: ClassVar[frozenset[str]] = frozenset()
    """Fields of the specifications that change no answer, such as what clients repeat of earlier answers."""


def _unknown(model: BaseModel, path: str) -> Iterator[str]:
    silent = model.says_nothing if isinstance(model, Part) else ()
    yield from (path + name for name in model.model_extra or {} if name not in silent)
    for name, field in type(model).model_fields.items():
        here, value = f"{path}{field.alias or name}", getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _unknown(value, f"{here}.")
        elif isinstance(value, list):
            for index, each in enumerate(value):
                if isinstance(each, BaseModel):
                    yield from _unknown(each, f"{here}[{index}].")


def _asks_for_nothing(value: object, off: OffValues) -> bool:
    return value is None or any(type(value) is type(each) and value == each for each in off)


def _refusal(off: OffValues, instead: str | None) -> str:
    if instead is not None:
        return f"is not supported, as it was replaced by {instead}; send that instead"
    values = " or ".join(msgspec.json.encode(value).decode() for value in off)
    return "is not supported yet; leave it out" + (f" or send {values}" if off else "")


def _stop_list(value: object) -> object:
    if isinstance(value, str):
        return [value]
    if value is not None and not isinstance(value, list):
        raise ValueError("should be a string or a list of strings")
    return value


StopStrings = Annotated[
    list[Annotated[str, Field(min_length=1)]] | None,
    BeforeValidator(_stop_list),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": "string", "minLength": 1}},
                {"type": "null"},
            ]
        }
    ),
]


Entry = TypeVar("Entry")
TextOr = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[Entry], Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, list) else "text"),
]
"""A text or a list; what is wrong with a list is told of its entries, not of the text that it is not."""


class StreamOptions(Part):
    """What a stream tells besides its text."""

    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False
    include_obfuscation: Annotated[bool | None, Field(description="Only false: chunks are never padded.")] = False


class PromptTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int
    """Prompt tokens that did not have to be computed."""


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int
    """Tokens of the answer that the model spent on thinking, the markers around it included."""


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one answer; prompts count once each, whatever ``n`` is."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int
    prompt_tokens_details: PromptTokensDetails | UnsetType = UNSET
    """Where the server was started with ``--enable-prompt-tokens-details``, when the answer is complete."""
    completion_tokens_details: CompletionTokensDetails | UnsetType = UNSET
    """For models that are known to think."""

    @classmethod
    def of(
        cls,
        prompt_tokens: int,
        completion_tokens: int,
        cached_tokens: int | None = None,
        reasoning_tokens: int | None = None,
    ) -> "Usage":
        """``cached_tokens``, ``reasoning_tokens`` None: not told."""
        return cls(
            prompt_tokens,
            prompt_tokens + completion_tokens,
            completion_tokens,
            UNSET if cached_tokens is None else PromptTokensDetails(cached_tokens),
            UNSET if reasoning_tokens is None else CompletionTokensDetails(reasoning_tokens),
        )


class PromptLogprob(msgspec.Struct, frozen=True):
    """One candidate at one position of the prompt."""

    logprob: float
    rank: int
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]
"""One entry per prompt token, by token id; the first is null."""
