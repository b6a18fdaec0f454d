"""What is told of stored chat completions besides themselves."""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType


class DeletedChat(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of DELETE /v1/chat/completions/{id}."""

    id: str
    object: str = "chat.completion.deleted"
    deleted: bool = True


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message of the conversation that was answered."""

    id: str
    role: str
    content: Any
    name: str | UnsetType = UNSET


class MessageList(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of GET /v1/chat/completions/{id}/messages."""

    object: str = "list"
    data: list[StoredMessage]
    first_id: str | None
    last_id: str | None
    has_more: bool
