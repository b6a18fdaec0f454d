"""A real worker with the simulated engine that notes what it claims, in order, and claims nothing while it is told to wait."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace_shared.queue.claims import BackgroundRoom, Claim, WorkerQueue
from headrace_worker.__main__ import main

PLACE = "CLAIM_NOTES"
"""The variable that names the folder."""


@dataclass(frozen=True)
class Noted:
    """A claim; times by Redis' clock."""

    request_id: str
    enqueued_ms: int
    claimed_ms: int


class ClaimNotes:
    """A folder that a test shares with its worker."""

    def __init__(self, folder: Path) -> None:
        self._claims = folder / "claims"
        self._wait = folder / "wait"

    @property
    def held(self) -> bool:
        return self._wait.exists()

    def hold(self) -> None:
        """No claims from now on."""
        self._wait.touch()

    def release(self) -> None:
        self._wait.unlink()

    def note(self, claims: Sequence[Claim]) -> None:
        with self._claims.open("a") as file:
            file.writelines(f"{claim.request_id} {claim.enqueued_ms} {claim.claimed_ms}\n" for claim in claims)

    def read(self) -> list[Noted]:
        """All claims so far."""
        rows = [line.split() for line in self._claims.read_text().splitlines()]
        return [Noted(request_id, int(enqueued), int(claimed)) for request_id, enqueued, claimed in rows]


def note_claims(notes: ClaimNotes) -> None:
    claim = WorkerQueue.claim

    async def noting(
        queue: WorkerQueue, want: int, max_cost_tokens: int, background: BackgroundRoom | None = None
    ) -> list[Claim]:
        if notes.held:
            return []
        claims = await claim(queue, want, max_cost_tokens, background)
        notes.note(claims)
        return claims

    WorkerQueue.claim = noting  # type: ignore[method-assign]


if __name__ == "__main__":
    note_claims(ClaimNotes(Path(os.environ[PLACE])))
    raise SystemExit(main())
