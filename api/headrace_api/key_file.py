"""The keys file: API keys with names and limits of their own."""

import json
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

Rate = Annotated[int | None, Field(ge=1)]
Amount = Annotated[int | None, Field(ge=0)]
Priority = Annotated[int | None, Field(ge=-(2**53) + 1, le=2**53 - 1)]


class NamedKey(BaseModel):
    """One entry. What is not given is as for every other client."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: Annotated[SecretStr, Field(min_length=1)]
    requests_per_minute: Rate = None
    tokens_per_minute: Rate = None
    priority_min: Priority = None
    priority_max: Priority = None
    file_bytes: Amount = None
    batch_items: Amount = None
    batch_tokens: Amount = None
    admin: bool = False
    """May see and cancel the requests of all keys, and see and retry dead letters."""

    @model_validator(mode="after")
    def _is_a_range(self) -> "NamedKey":
        if self.priority_min is not None and self.priority_max is not None and self.priority_min > self.priority_max:
            raise ValueError("priority_min is above priority_max")
        return self


def _read(value: object) -> object:
    if not isinstance(value, str | Path):
        return value
    try:
        entries = json.loads(Path(value).read_bytes())
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None
    if not isinstance(entries, dict):
        raise ValueError("should hold a JSON object: a name for each key")
    return entries


TenantName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
KeyFile = Annotated[dict[TenantName, NamedKey], BeforeValidator(_read)]
"""The entries by tenant; a path is read."""
