"""The servers as the command line sees them: modules to start, with their settings in the environment."""

import importlib.util
import os
import sys
from collections.abc import Mapping

from headrace_cli.errors import EXIT_CONFIGURATION, CliError

API = "headrace_api"
WORKER = "headrace_worker"
BATCH_WORKER = "headrace_api.batch_worker"
_EXTRAS = {API: ("fastapi", "api"), WORKER: ("torch", "worker"), BATCH_WORKER: ("arq", "api")}


def command(package: str) -> tuple[str, ...]:
    """The argument vector that starts ``package``; -P keeps modules in the current folder out of it."""
    return (sys.executable, "-P", "-m", package)


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with ``variables`` on top: a flag beats what was exported."""
    # Block-buffered output would arrive long after it was said, or never if the process is killed.
    return {**os.environ, "PYTHONUNBUFFERED": "1", **variables}


def stop_s(package: str, variables: Mapping[str, str]) -> float:
    """How long ``package`` may take to stop by its own settings, seconds."""
    if package == API:
        delay_s = _seconds(variables, "HEADRACE_API_DRAIN_DELAY_S", 0.0)
        return delay_s + _seconds(variables, "HEADRACE_API_SHUTDOWN_GRACE_S", 30.0)
    if package == BATCH_WORKER:
        return 0.0
    finishes = variables.get("HEADRACE_WORKER_DRAIN") == "finish"
    return _seconds(variables, "HEADRACE_WORKER_DRAIN_TIMEOUT_S", 300.0) if finishes else 0.0


def _seconds(variables: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(variables.get(name, default))
    except ValueError:
        return default  # the server itself refuses it, with a better message


def is_there(package: str) -> bool:
    """Whether the server ``package`` is installed."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # nor what it is part of
        return False


def require(package: str) -> None:
    """Raise CliError when what ``package`` needs is not installed."""
    library, extra = _EXTRAS[package]
    if not is_there(package) or importlib.util.find_spec(library) is None:
        raise CliError(
            f"{library} is not installed; try: pip install 'headrace[{extra}]'", exit_code=EXIT_CONFIGURATION
        )


def become(package: str, variables: Mapping[str, str]) -> None:
    """Replace this process by the server, so that signals and exit status are the server's own."""
    argv = command(package)
    os.execve(argv[0], argv, environment(variables))  # noqa: S606 - no shell is wanted
