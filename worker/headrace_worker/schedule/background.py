"""BackgroundCount: how many background sequences there are, and how many more would be of use."""

from headrace_worker.schedule.plan import Plan


class BackgroundCount:
    """Kept by the scheduler."""

    def __init__(self) -> None:
        self.unfinished = 0
        self.planned = 0
        """Those in the last plan."""
        self.steps_given_up = 0
        self._held_back = False

    @property
    def paused(self) -> int:
        """Those that the last plan left out."""
        return max(0, self.unfinished - self.planned)

    def note(self, plan: Plan, *, held_back: bool) -> None:
        """A plan was made."""
        self.planned = sum(part.sequence.background for part in plan.slices)
        self._held_back = held_back

    def wanted(self, slots: int, others: int) -> int:
        """How many more to take in: with ``others`` beside them one at a time, as long as none is held back."""
        if not others:
            return slots
        return 0 if self._held_back else min(slots, 1)
