"""/v1/batches."""

import re
from typing import Annotated

import msgspec
from pydantic import Field

from headrace_api.schemas.base import RequestModel
from headrace_api.schemas.files import ExpiresAfter
from headrace_api.schemas.problems import Problem, shown

_WINDOW = re.compile(r"([1-9]\d{0,5})([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
LONGEST_WINDOW_S = 7 * 86_400


class BatchRequest(RequestModel):
    """What to work on, and by when."""

    input_file_id: Annotated[str, Field(min_length=1, description="A file with the purpose batch.")]
    endpoint: Annotated[str, Field(description="The path that all its items are for.")]
    completion_window: Annotated[
        str, Field(description="24h, or another time up to 7d in s, m, h or d; what is not done by then expires.")
    ]
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None,
        Field(max_length=16, description="Kept and shown."),
    ] = None
    output_expires_after: Annotated[
        ExpiresAfter | None, Field(description="When its results go; default: as other files.")
    ] = None
    webhook_url: Annotated[
        str | None, Field(description="Who is told its end, on a host that the server allows; default: the server's.")
    ] = None

    @property
    def window_s(self) -> int:
        """0 for what is no such time."""
        match = _WINDOW.fullmatch(self.completion_window)
        return int(match[1]) * _UNIT_S[match[2]] if match else 0

    def conflicts(self) -> list[Problem]:
        if 0 < self.window_s <= LONGEST_WINDOW_S:
            return []
        got = shown(self.completion_window)
        return [Problem("completion_window", f"should be 24h, or another time up to 7d in s, m, h or d, got {got}")]


class RequestCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Of its items."""

    total: int
    completed: int
    failed: int


class BatchError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a batch cannot be worked on."""

    code: str
    line: int | None
    """In its input, from 1."""
    message: str
    param: str | None


class BatchErrors(msgspec.Struct, frozen=True, kw_only=True):
    object: str = "list"
    data: list[BatchError]


class InputDetails(msgspec.Struct, frozen=True):
    cached_tokens: int


class OutputDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class BatchTokens(msgspec.Struct, frozen=True, kw_only=True):
    """Of all its items together, so far."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """How far the telling of a batch's end has come."""

    status: str
    """pending, delivered, given_up."""
    attempts: int
    error: str | None
    """Of the last attempt."""


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch as it is now."""

    id: str
    object: str = "batch"
    endpoint: str
    model: str | None
    """Known once it is valid."""
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchTokens
    metadata: dict[str, str] | None
    webhook: Webhook | None
    """null: nobody is told its end."""


class BatchList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of batches."""

    object: str = "list"
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool
