"""Ending: why a sequence is over."""

from dataclasses import dataclass

from headrace_shared.protocol.event import FinishReason


@dataclass(frozen=True, slots=True)
class Ending:
    """``stop_reason``: the id out of ``stop_token_ids`` that did it; None for any other reason."""

    reason: FinishReason
    stop_reason: int | None = None
