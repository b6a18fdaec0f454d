"""HttpMetrics: what is counted of every HTTP request, with labels that clients cannot multiply."""

from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers

from headrace_api.metrics import Metrics
from headrace_shared.clock import mono_s

UNMATCHED = "none"
"""The route of a request that has none: its path is whatever the client has made up."""
_LEFT_OUT = frozenset({"/metrics", "/health", "/ready", "/load", "/ping", "/version", "/console/events"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OTHER_METHOD = "OTHER"


class HttpMetrics:
    """Probes, scrapes and consoles that look on for hours are left out."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def answered(self, scope: Mapping[str, Any], route: str, status: int | None, sent_bytes: int) -> None:
        """``status`` None: the client had gone before."""
        if route in _LEFT_OUT:
            return
        metrics = self._metrics
        method = scope["method"] if scope["method"] in _METHODS else _OTHER_METHOD
        duration_s = mono_s() - scope["state"]["arrived_s"]
        length = Headers(raw=scope["headers"]).get("content-length", "")
        metrics.http_requests.labels(route, method, f"{(status or 499) // 100}xx").inc()
        metrics.http_duration.labels(route, method).observe(duration_s)
        metrics.http_duration_fine.observe(duration_s)
        metrics.http_request_bytes.labels(route).observe(int(length) if length.isdecimal() else 0)
        metrics.http_response_bytes.labels(route).observe(sent_bytes)
