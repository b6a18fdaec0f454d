"""Drain: the end of a process, from the signal to stop to its last connection."""

from headrace_shared.clock import mono_s


class Drain:
    """Known to the server, which begins it, and to ``/ready``, which tells it."""

    def __init__(self) -> None:
        self._since_s: float | None = None

    @property
    def begun(self) -> bool:
        return self._since_s is not None

    def begin(self) -> None:
        """A second time changes nothing."""
        if self._since_s is None:
            self._since_s = mono_s()

    def lasts(self, at_least_s: float) -> bool:
        """Whether it was begun so long ago."""
        return self._since_s is not None and mono_s() - self._since_s >= at_least_s
