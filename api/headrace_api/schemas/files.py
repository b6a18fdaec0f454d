"""/v1/files."""

from typing import Annotated

import msgspec
from pydantic import Field

from headrace_api.schemas.base import Part, RequestModel


class ExpiresAfter(Part):
    """When a file goes: so long after it was made."""

    anchor: Annotated[str, Field(pattern="^created_at$")]
    seconds: Annotated[int, Field(ge=3600, le=2_592_000)]


class FileForm(RequestModel):
    """The fields of an upload, besides the file."""

    purpose: Annotated[str, Field(description="batch, or user_data for what is only to be kept.")]
    expires_after: Annotated[
        ExpiresAfter | None, Field(description="In a form: expires_after[anchor], expires_after[seconds].")
    ] = None


class FileObject(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a file."""

    id: str
    object: str = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: str = "processed"
    """Deprecated; there is no other."""


class FileList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of files."""

    object: str = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(msgspec.Struct, frozen=True, kw_only=True):
    """It is gone."""

    id: str
    object: str = "file"
    deleted: bool = True
