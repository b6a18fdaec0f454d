"""RepeatLimit: the same warning over and over says no more than once, and drowns the rest."""

import logging

from headrace_shared.clock import mono_s

_WINDOW_S = 10.0
_MOST_PER_WINDOW = 10


class RepeatLimit(logging.Filter):
    """Lets ten warnings or errors with the same message through in ten seconds.

    The first one after those that were left out says how many they were, in its field ``left_out``. Messages are fixed
    texts and their fields vary, so that equal messages mean the same thing.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        key = (record.name, str(record.msg))
        now_s = mono_s()
        since_s, count = self._seen.get(key, (now_s, 0))
        if now_s - since_s >= _WINDOW_S:
            if count > _MOST_PER_WINDOW:
                record.left_out = count - _MOST_PER_WINDOW
            since_s, count = now_s, 0
        self._seen[key] = (since_s, count + 1)
        return count < _MOST_PER_WINDOW
