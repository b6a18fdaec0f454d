"""Listener: /metrics and /health of a process that serves nothing else, over plain HTTP in a thread of its own.

In a thread, so that it answers while the event loop does not: that is when one wants to know.
"""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from headrace_shared.telemetry.exposition import CONTENT_TYPE, Exposition

_IDLE_S = 10.0


class Listener:
    """Open until ``close``. Raises OSError when the address cannot be listened on."""

    def __init__(self, host: str, port: int, exposition: Exposition, ill: Callable[[], str | None]) -> None:
        """``port`` 0 picks a free one. ``ill`` says what is wrong with the process; None: nothing."""

        class Handler(BaseHTTPRequestHandler):
            timeout = _IDLE_S
            protocol_version = "HTTP/1.1"
            server_version = "headrace"

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    self._answer(200, exposition.text(), CONTENT_TYPE)
                elif path == "/health":
                    problem = ill()
                    self._answer(503 if problem else 200, (problem or "").encode())
                else:
                    self._answer(404, b"/metrics or /health\n")

            def _answer(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Scrapes are not worth a line."""

        self._server = _Server((host, port), Handler)
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""
