"""GET /v1/models."""

import msgspec
from msgspec import UNSET, UnsetType


class ModelPermission(msgspec.Struct, frozen=True, kw_only=True):
    """Kept for clients that expect it."""

    id: str
    object: str = "model_permission"
    created: int
    allow_create_engine: bool = False
    allow_sampling: bool = True
    allow_logprobs: bool = True
    allow_search_indices: bool = False
    allow_view: bool = True
    allow_fine_tuning: bool = False
    organization: str = "*"
    group: str | None = None
    is_blocking: bool = False


class ConflictingCard(msgspec.Struct, frozen=True):
    """One of several descriptions that workers announce under one name; requests go to the chosen one."""

    card: str
    workers: int
    chosen: bool


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One name that can be asked for. ``conflicts`` is only there when workers disagree."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "headrace"
    root: str
    parent: str | None = None
    max_model_len: int
    permission: list[ModelPermission]
    conflicts: list[ConflictingCard] | UnsetType = UNSET


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """All of them."""

    object: str = "list"
    data: list[Model]
