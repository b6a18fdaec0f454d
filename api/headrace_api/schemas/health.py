"""GET /ready, GET /version, GET /load and GET /metrics/targets."""

import msgspec


class WorkerLoad(msgspec.Struct, frozen=True):
    """How one worker is, about a second ago."""

    state: str
    kv_blocks_total: int
    kv_blocks_free: int
    running: int
    waiting: int


class ReadyModel(msgspec.Struct, frozen=True):
    """A name that can be asked for, and the workers that serve it."""

    id: str
    max_model_len: int
    workers: list[WorkerLoad]


class Readiness(msgspec.Struct, frozen=True):
    """Ready: Redis answers and a model can be asked for. ``missing`` says in words what is not as it should be."""

    ready: bool
    redis: bool
    models: list[ReadyModel]
    missing: list[str]
    conflicts: list[str]
    """Names that workers announce with different cards."""
    draining: bool = False
    """This node was told to stop: send it nothing new."""


class Version(msgspec.Struct, frozen=True):
    """Which release this is."""

    version: str


class ServerLoad(msgspec.Struct, frozen=True):
    server_load: int
    """Generation requests that this process has accepted and not yet answered to their end."""


class ScrapeTarget(msgspec.Struct, frozen=True):
    """A worker's /metrics, in the form of Prometheus' HTTP service discovery."""

    targets: list[str]
    """``host:port``."""
    labels: dict[str, str]
