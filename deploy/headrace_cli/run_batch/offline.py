"""The local stack that answers a batch when no server is named: queue, worker and API node of its own."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from headrace_cli import models, servers
from headrace_cli.front_door import FrontDoor
from headrace_cli.local import LocalSettings
from headrace_cli.terminal import Terminal

_NOT_OURS = ("HEADRACE_API_", "HEADRACE_REDIS_", "HEADRACE_QUEUE_")
"""Exported settings of servers that others use: keys, ports, limits."""
_QUIET = {
    "HEADRACE_API_LOG_LEVEL": "warning",
    "HEADRACE_WORKER_LOG_LEVEL": "warning",
    "HEADRACE_API_ACCESS_LOG": "false",
    "HEADRACE_WORKER_METRICS_PORT": "-1",
    "HEADRACE_WORKER_USE_TQDM_ON_LOAD": "false",
}


@contextlib.contextmanager
def local_settings(given: Mapping[str, str], terminal: Terminal) -> Iterator[LocalSettings]:
    """A stack that this user alone can reach; its folder is gone afterwards. ``given``: what was set, by variables.

    Raises CliError for a model that cannot be served or a part of Headrace that is not installed.
    """
    simulated = given.get("HEADRACE_WORKER_ENGINE") == "simulated"
    servers.require(servers.API)
    if not simulated:
        servers.require(servers.WORKER)
    asked = given["HEADRACE_WORKER_MODEL"]
    model = asked if simulated else models.resolve(asked, terminal)
    exported = {name: text for name, text in os.environ.items() if not name.startswith(_NOT_OURS)}
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        uds = Path(folder) / "api.sock"
        environment = {**exported, **_QUIET, **given, "PYTHONUNBUFFERED": "1"}
        environment |= {"HEADRACE_WORKER_MODEL": model, "HEADRACE_API_UDS": str(uds)}
        yield LocalSettings(FrontDoor(uds=uds), Path(folder), None, environment, batch_worker=False)
