"""``headrace chat``: a conversation in the terminal with any OpenAI-compatible server."""

import contextlib
import json
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from rich.console import Console
from rich.text import Text

from headrace_cli.errors import CliError
from headrace_cli.terminal import without_controls

_HELP = "/reset forgets the conversation, /system TEXT sets the system message, /exit leaves; Ctrl-C stops an answer."


class ChatClient:
    """Streams answers of one model."""

    def __init__(self, url: str, api_key: str | None, model: str | None) -> None:
        base = url if "://" in url else f"http://{url}"
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # An answer may take its time to begin; only connecting has a limit.
        timeout = httpx.Timeout(None, connect=10.0)
        self._http = httpx.Client(base_url=base.rstrip("/").removesuffix("/v1"), headers=headers, timeout=timeout)
        self.model = model or self._first_model()

    def answer(self, messages: list[dict[str, str]], max_tokens: int | None) -> Generator[str, None, None]:
        """The answer's pieces as they come. Raises CliError for a refusal or a broken connection."""
        body: dict[str, Any] = {"model": self.model, "messages": messages, "stream": True}
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        with self._errors_told(), self._http.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.is_error:
                response.read()
                raise CliError(_refusal(response))
            for line in response.iter_lines():
                if line.startswith("data:") and (data := line[5:].strip()) != "[DONE]":
                    yield _piece(json.loads(data))

    def _first_model(self) -> str:
        with self._errors_told():
            response = self._http.get("/v1/models")
            if response.is_error:
                raise CliError(_refusal(response))
            models = response.json()["data"]
        if not models:
            raise CliError(f"{self._http.base_url} serves no model")
        return str(models[0]["id"])

    @contextlib.contextmanager
    def _errors_told(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise CliError(f"cannot talk to {self._http.base_url}: {error}") from None
        except (json.JSONDecodeError, KeyError, TypeError):
            raise CliError(f"{self._http.base_url} is not an OpenAI-compatible server") from None


def _piece(chunk: dict[str, Any]) -> str:
    if error := chunk.get("error"):
        raise CliError(f"the answer broke off: {error.get('message', error)}")
    return "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])


def _refusal(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return f"HTTP {response.status_code}: {response.text[:200]}"


@dataclass
class Conversation:
    """What has been said, and what the system message is."""

    system: str | None = None
    turns: list[dict[str, str]] = field(default_factory=list)

    def asked(self, question: str) -> list[dict[str, str]]:
        """Add a question; returns the messages to send."""
        self.turns.append({"role": "user", "content": question})
        head = [{"role": "system", "content": self.system}] if self.system else []
        return [*head, *self.turns]

    def answered(self, text: str) -> None:
        """Without an answer the question is taken back, so that turns keep alternating."""
        if text:
            self.turns.append({"role": "assistant", "content": text})
        else:
            self.turns.pop()


class ChatSession:
    """Reads questions and commands from stdin until /exit or its end."""

    def __init__(self, client: ChatClient, system: str | None, max_tokens: int | None) -> None:
        self._client = client
        self._conversation = Conversation(system)
        self._max_tokens = max_tokens
        self._console = Console(highlight=False, soft_wrap=True)

    def run(self) -> None:
        self._note(f"Talking to {self._client.model}. {_HELP}")
        while (line := self._read()) is not None:
            if not line:
                continue
            if line.startswith("/"):
                if not self._obey(*line.split(maxsplit=1)):
                    return
            else:
                self._ask(line)

    def _read(self) -> str | None:
        """None at the end of the input; a Ctrl-C only drops the line being typed."""
        try:
            return input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return None
        except KeyboardInterrupt:
            print()
            return ""

    def _obey(self, command: str, argument: str = "") -> bool:
        """False when the conversation is over."""
        match command:
            case "/exit" | "/quit":
                return False
            case "/reset":
                self._conversation.turns.clear()
                self._note("Forgotten.")
            case "/system":
                self._conversation.system = argument or None
                self._note("The system message is set." if argument else "There is no system message now.")
            case _:
                self._note(_HELP)
        return True

    def _ask(self, question: str) -> None:
        pieces: list[str] = []
        try:
            with contextlib.closing(
                self._client.answer(self._conversation.asked(question), self._max_tokens)
            ) as answer:
                for piece in answer:
                    pieces.append(piece)
                    # What a model says must not be able to drive the terminal.
                    print(without_controls(piece), end="", flush=True)
        except KeyboardInterrupt:
            self._note(" (stopped)")
        except CliError as error:
            self._note(f"error: {error.message}")
        print()
        self._conversation.answered("".join(pieces))

    def _note(self, text: str) -> None:
        self._console.print(Text(text, style="dim"))


def run(url: str, api_key: str | None, model: str | None, system: str | None, max_tokens: int | None) -> None:
    """Talk until the user leaves. Raises CliError when the server cannot be reached at all."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - gives input() its line editing
    ChatSession(ChatClient(url, api_key, model), system, max_tokens).run()
