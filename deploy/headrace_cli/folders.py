"""Where Headrace keeps what outlives a process: models it made, and the state of a local server."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """``$HEADRACE_CACHE``, else ``headrace`` in the user's cache folder. Safe to delete while nothing runs."""
    if chosen := os.environ.get("HEADRACE_CACHE"):
        return Path(chosen).expanduser().absolute()
    return _xdg("XDG_CACHE_HOME", ".cache") / "headrace"


def state_dir() -> Path:
    """``$HEADRACE_STATE``, else ``headrace`` in the user's state folder."""
    if chosen := os.environ.get("HEADRACE_STATE"):
        return Path(chosen).expanduser().absolute()
    return _xdg("XDG_STATE_HOME", ".local/state") / "headrace"


def _xdg(variable: str, below_home: str) -> Path:
    # The XDG rules: a relative path in such a variable is to be ignored.
    chosen = Path(os.environ.get(variable, ""))
    return chosen if chosen.is_absolute() else Path.home() / below_home
