"""Options of files and batches, read by API nodes and batch workers alike."""

from typing import Any

from headrace_cli.flag import Flag
from headrace_cli.flags.api import API_FLAGS


def _batch(name: str, kind: Any, text: str, metavar: str, setting: str | None = None) -> Flag:
    return Flag(name, kind, text, (f"HEADRACE_API_{setting or name.replace('-', '_').upper()}",), metavar)


BATCH_FLAGS = (
    _batch(
        "files",
        str,
        "Where files are kept: a folder that all API nodes and batch workers share, or s3://bucket/prefix with credentials in AWS_* (default: in the user's state folder).",
        "FOLDER|URL",
    ),
    _batch("max-file-bytes", int, "Largest file that can be uploaded (default 536870912).", "BYTES"),
    _batch(
        "file-ttl",
        int,
        "How long a file is kept that does not say so itself (default 2592000, 30 days).",
        "SECONDS",
        "FILE_TTL_S",
    ),
    _batch("file-bytes", int, "Bytes of files that each client may store (default: any number).", "BYTES"),
    _batch("batch-items", int, "Items that each client's unfinished batches may have (default: any number).", "N"),
    _batch("batch-tokens", int, "Tokens that those items may need together (default: any number).", "N"),
    _batch("max-batch-items", int, "Most items of one batch (default 50000).", "N"),
    _batch(
        "batch-priority",
        int,
        "Priority of the items of batches; it falls to 1 while the end of a batch's time comes near (default 100).",
        "N",
    ),
    _batch("batch-window", int, "Items that one batch worker has in the queue at once (default 256).", "N"),
    _batch(
        "batch-lease-s",
        float,
        "Silence after which another batch worker takes over a batch (default 10).",
        "SECONDS",
    ),
    _batch(
        "batch-metrics-host",
        str,
        "Address that a batch worker's /metrics and /health listen on (default 127.0.0.1).",
        "ADDRESS",
    ),
    _batch(
        "batch-metrics-port",
        int,
        "Port of a batch worker's /metrics and /health; 0 picks a free one, -1 opens none (default).",
        "PORT",
    ),
    _batch(
        "batch-ttl",
        int,
        "How long a batch is shown after its end (default 2592000, 30 days).",
        "SECONDS",
        "BATCH_TTL_S",
    ),
    _batch(
        "webhook-secret", str, "What webhooks are signed with: whsec_ and base64. Without it none are sent.", "SECRET"
    ),
    _batch(
        "webhook-hosts",
        list[str],
        "Host that clients may name as receiver of webhooks, like hooks.example.com or *.example.com; may be given several times.",
        "HOST",
    ),
    _batch(
        "webhook-url",
        str,
        "Who is told the end of batches that name no receiver (default: nobody).",
        "URL",
    ),
)

_ANSWERING = {
    "enable-log-requests",
    "max-log-len",
    "return-tokens-as-token-ids",
    "enable-per-request-metrics",
    "first-served-name",
    "strict-max-tokens",
    "scheduling-policy",
    "enable-prompt-tokens-details",
    "response-store-ttl",
    "max-body-bytes",
    "tokenizer-threads",
    "max-stop-strings",
    "max-grammar-bytes",
    "grammar-timeout-s",
    "no-worker-grace-s",
}
ANSWER_FLAGS = tuple(flag for flag in API_FLAGS if flag.name in _ANSWERING)
"""What says how an API node answers: a batch worker must do as they do."""
