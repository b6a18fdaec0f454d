"""What all chunks and answers of one request have in common."""

from dataclasses import dataclass

from msgspec import UNSET, UnsetType


@dataclass(frozen=True, slots=True)
class Envelope:
    """``model`` is the name that the client asked for."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    service_tier: str | UnsetType = UNSET
    """Told to clients that asked for one."""
