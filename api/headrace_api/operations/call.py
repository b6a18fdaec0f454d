"""Call: what an operation knows of the HTTP request besides its checked body."""

from collections.abc import MutableMapping
from dataclasses import dataclass, field

from headrace_api.tenants import Caller


@dataclass(frozen=True, slots=True)
class Call:
    """Made where HTTP ends. ``caller.tenant`` is the one that the work is for."""

    request_id: str
    """Minted here, or the client's own."""
    chosen_by_client: bool
    arrived_s: float
    """``clock.mono_s``."""
    caller: Caller
    timeout_s: float
    """The smallest of what the client and the server allow."""
    body: bytes = b""
    """The JSON as it was received."""
    priority: int | None = None
    """Goes before the body's."""
    idempotency_key: str | None = None
    detached: bool = False
    """The work goes on when the client has gone."""
    traceparent: str | None = None
    tracestate: str | None = None
    answer_headers: MutableMapping[str, str] = field(default_factory=dict)
    """Sent with the answer, whatever it becomes; operations add what the client should know."""
