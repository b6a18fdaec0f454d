"""GET /ready and GET /version."""

import msgspec


class Readiness(msgspec.Struct, frozen=True):
    """Ready: Redis answers and a model can be asked for. ``missing`` says in words what is not as it should be."""

    ready: bool
    redis: bool
    models: list[str]
    missing: list[str]
    conflicts: list[str]
    """Names that workers announce with different cards."""


class Version(msgspec.Struct, frozen=True):
    """Which release this is."""

    version: str
