"""Parameters of decoding that are objects of their own."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from headrace_api.schemas.base import JsonObject

_ImportName = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$", max_length=256)]


class ProcessorFactory(BaseModel):
    """A logits processor that is made for the request, by a call with these arguments."""

    model_config = ConfigDict(strict=True, extra="forbid")

    qualname: _ImportName
    args: list[Any] | None = None
    kwargs: JsonObject | None = None


LogitsProcessor = _ImportName | ProcessorFactory


class RepetitionDetection(BaseModel):
    """The same tokens, ``min_count`` times in a row, end an answer with ``finish_reason`` repetition."""

    model_config = ConfigDict(strict=True, extra="forbid")

    max_pattern_size: Annotated[int, Field(ge=0, le=1024, description="Tokens of a pattern; 0: off.")]
    min_pattern_size: Annotated[int | None, Field(ge=0, le=1024)] = 1
    min_count: Annotated[int, Field(ge=2, le=1024)]
