"""Text that arrives in pieces and is read up to markers."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stretch:
    """Text up to ``marker``; without one the text goes on."""

    text: str
    marker: str | None


class MarkedText:
    """What was fed and not read yet.

    A marker may contain another only as its end: then which of them is found does not hang on how the text is cut.
    """

    def __init__(self) -> None:
        self.pending = ""

    def read(self, markers: Sequence[str]) -> Stretch:
        """Takes the text before the first of the markers, and that marker.

        When there is none, takes all but what may be the beginning of one.
        """
        found = [(at, marker) for marker in markers if (at := self.pending.find(marker)) >= 0]
        if found:
            at, marker = min(found)
            text = self.pending[:at]
            self.pending = self.pending[at + len(marker) :]
            return Stretch(text, marker)
        keep = max((_overlap(self.pending, marker) for marker in markers), default=0)
        text, self.pending = self.pending[: len(self.pending) - keep], self.pending[len(self.pending) - keep :]
        return Stretch(text, None)

    def take(self) -> str:
        """All that is left."""
        text, self.pending = self.pending, ""
        return text


def _overlap(text: str, marker: str) -> int:
    """How many characters at the end of ``text`` may begin ``marker``."""
    longest = min(len(text), len(marker) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(marker[:size])), 0)
