"""The options that become settings of a server process: one table, from which the commands' signatures are made.

The servers' own settings classes are the truth about defaults and ranges; the command line only hands on what was
given, as environment variables, so that a flag and its variable can never mean different things.
"""

from headrace_cli.flags.api import API_FLAGS
from headrace_cli.flags.batch import ANSWER_FLAGS, BATCH_FLAGS
from headrace_cli.flags.common import (
    CONFIG_FLAG,
    REDIS_FLAG,
    REDIS_FLAGS,
    STATE_DIR_FLAG,
    TRACES_FLAG,
    logging_flags,
    plugin_flags,
)
from headrace_cli.flags.queue import QUEUE_FLAGS
from headrace_cli.flags.worker import WORKER_FLAGS, WORKER_METRICS_FLAGS

ALL_FLAGS = (
    *API_FLAGS,
    *BATCH_FLAGS,
    *QUEUE_FLAGS,
    *WORKER_FLAGS,
    *WORKER_METRICS_FLAGS,
    *plugin_flags("API", "WORKER"),
    *logging_flags("API", "WORKER"),
    *REDIS_FLAGS,
)
"""What becomes a setting of a server, and the reference page lists."""
SERVE_FLAGS = (*ALL_FLAGS, STATE_DIR_FLAG, CONFIG_FLAG)
"""What ``headrace serve`` takes."""

__all__ = [
    "ALL_FLAGS",
    "ANSWER_FLAGS",
    "API_FLAGS",
    "BATCH_FLAGS",
    "CONFIG_FLAG",
    "QUEUE_FLAGS",
    "REDIS_FLAG",
    "REDIS_FLAGS",
    "SERVE_FLAGS",
    "STATE_DIR_FLAG",
    "TRACES_FLAG",
    "WORKER_FLAGS",
    "WORKER_METRICS_FLAGS",
    "logging_flags",
    "plugin_flags",
]
