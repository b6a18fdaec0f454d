"""Log lines for people (console) or for collectors (JSON), each with its request id and its fields."""

import json
import logging
import sys
import time
from collections.abc import Sequence
from typing import Any, Literal

from headrace_shared.telemetry.context import current_request_id, trace_id_of
from headrace_shared.telemetry.redaction import Redaction
from headrace_shared.telemetry.repeats import RepeatLimit

LogFormat = Literal["console", "json"]

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}
"""What every record has; whatever else is there came through ``extra`` and is a field."""


def setup_logging(level: str = "INFO", fmt: LogFormat = "console", secrets: Sequence[str] = ()) -> None:
    """Send every logger of this process to stderr, one line per record, in ``fmt``.

    Replaces handlers that were there. ``level`` is a standard level name in any case. ``secrets`` are never shown, nor
    is what looks like one; warnings that repeat themselves are left out for a while.
    """
    redaction = Redaction(secrets)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(redaction) if fmt == "json" else ConsoleFormatter(redaction))
    handler.addFilter(RepeatLimit())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


class _Formatter(logging.Formatter):
    def __init__(self, redaction: Redaction | None = None) -> None:
        super().__init__()
        self._redact = redaction or Redaction()

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        fields = {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
        if "request_id" not in fields and (request_id := current_request_id()) is not None:
            fields["request_id"] = request_id
        if "trace_id" not in fields and (trace_id := trace_id_of(fields.get("request_id"))) is not None:
            fields["trace_id"] = trace_id
        return {key: self._redact.field(key, value) for key, value in fields.items()}

    def _exception(self, record: logging.LogRecord) -> str | None:
        return self._redact(self.formatException(record.exc_info)) if record.exc_info else None


class JsonFormatter(_Formatter):
    """One JSON object per line: time, level, logger, message, request_id, trace_id, the fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _iso_utc(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._redact(record.getMessage()),
            **self._fields(record),
        }
        if (exception := self._exception(record)) is not None:
            line["exception"] = exception
        return json.dumps(line, default=str, ensure_ascii=False)


class ConsoleFormatter(_Formatter):
    """``time LEVEL logger: message key=value ...``, with a traceback below when there is one."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {key}={_shown(value)}" for key, value in self._fields(record).items())
        message = _one_line(self._redact(record.getMessage()))
        line = f"{_iso_utc(record)} {record.levelname:<7} {record.name}: {message}{fields}"
        exception = self._exception(record)
        return line if exception is None else f"{line}\n{exception}"


def _iso_utc(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


def _shown(value: Any) -> str:
    text = str(value)
    if text and text.isprintable() and not any(c.isspace() or c == '"' for c in text):
        return text
    # What steers a terminal must not reach it: JSON leaves the controls above ASCII as they are, unless told.
    return json.dumps(text, ensure_ascii=any("\x7f" <= c <= "\x9f" for c in text))


def _one_line(text: str) -> str:
    """A client's line break must not be able to forge a second log line."""
    return text.replace("\r", "\\r").replace("\n", "\\n")
