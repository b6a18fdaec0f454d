"""Options of the queue: how much may wait, and who goes first."""

from typing import Any

from headrace_cli.flag import Flag


def _queue(name: str, setting: str, kind: Any, text: str, metavar: str, *also: str) -> Flag:
    return Flag(name, kind, text, (f"HEADRACE_QUEUE_{setting}",), metavar, also, is_json=metavar == "JSON")


QUEUE_FLAGS = (
    _queue(
        "max-queue-requests",
        "MAX_REQUESTS",
        int,
        "Most requests that may wait per model (default 10000).",
        "N",
        "max-num-queued-reqs",
    ),
    _queue(
        "max-queue-tokens",
        "MAX_TOKENS",
        int,
        "Most context tokens that a model's waiting requests may need (default 100000000).",
        "N",
        "max-num-queued-tokens",
    ),
    _queue(
        "priority-aging",
        "AGING_MS",
        int,
        "What has waited longer than this many milliseconds gets every eighth turn, whatever its priority (default: never).",
        "MS",
    ),
    _queue(
        "tenant-weights",
        "TENANT_WEIGHTS",
        str,
        'Shares of tenants among those of one priority, like {"ann": 2}; others have 1.',
        "JSON",
    ),
    _queue("max-attempts", "MAX_ATTEMPTS", int, "Workers that may be lost with a request (default 4).", "N"),
    _queue(
        "tenant-max-requests",
        "TENANT_MAX_REQUESTS",
        int,
        "Most requests that may wait per tenant (default: any number).",
        "N",
    ),
    _queue(
        "tenant-max-tokens",
        "TENANT_MAX_TOKENS",
        int,
        "Most context tokens that a tenant's waiting requests may need (default: any number).",
        "N",
    ),
    _queue(
        "affinity-hold-ms",
        "AFFINITY_HOLD_MS",
        int,
        "How long a request is kept for a worker that has its prompt's beginning cached (default 25).",
        "MS",
    ),
    _queue(
        "replay-ttl", "REPLAY_TTL_S", int, "How long a finished answer can be fetched again (default 600).", "SECONDS"
    ),
)
