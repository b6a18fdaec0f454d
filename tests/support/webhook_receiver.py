"""A real HTTP server that webhooks are sent to, and that answers as a test wants."""

import base64
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai
from certificates import Certificate

SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes ...").decode()


@dataclass(frozen=True)
class Received:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    def event(self, secret: str = SECRET) -> Any:
        """As the SDK reads it. Raises openai.InvalidWebhookSignatureError."""
        return openai.OpenAI(api_key="none").webhooks.unwrap(self.body, self.headers, secret=secret)


class Receiver:
    """``answers``: statuses, one for each request; afterwards 200. 0 says nothing at all."""

    def __init__(self, answers: list[int]) -> None:
        self.answers = answers
        self.received: list[Received] = []
        self.gone = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.received.append(Received(self.path, headers, body))
                status = receiver.answers.pop(0) if receiver.answers else 200
                if not status:
                    receiver.gone.wait(30)
                    return
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.server_port}"


@contextmanager
def running_receiver(*answers: int, certificate: Certificate | None = None) -> Iterator[Receiver]:
    receiver = Receiver(list(answers))
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.cert, certificate.key)
        receiver.server.socket = context.wrap_socket(receiver.server.socket, server_side=True)
    thread = threading.Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.gone.set()
        receiver.server.shutdown()
        receiver.server.server_close()
        thread.join()
