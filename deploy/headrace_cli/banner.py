"""What ``headrace serve`` shows when it is ready: what is served where, and how to talk to it."""

import shlex
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from headrace_cli.front_door import FrontDoor


@dataclass(frozen=True)
class Ready:
    """A server that answers, with the model that its banner names. ``guarded``: it wants an API key."""

    door: FrontDoor
    model: str
    context_tokens: int
    kv_blocks: int
    guarded: bool

    def forms(self) -> tuple[RenderableType, str]:
        """For a terminal, and as plain lines."""
        return self._panel(), "\n".join(
            [
                "",
                "Headrace is ready",
                *(f"  {k:<8} {v}" for k, v in self._facts()),
                "",
                self._curl(),
                "",
                self._python(),
            ]
        )

    def _facts(self) -> list[tuple[str, str]]:
        uds = [("Socket", str(self.door.uds))] if self.door.uds is not None else []
        return [
            *uds,
            ("URL", f"{self.door.base_url}/v1"),
            ("Model", self.model),
            ("Context", f"{self.context_tokens:,} tokens"),
            ("KV cache", f"{self.kv_blocks:,} blocks"),
            ("Docs", f"{self.door.base_url}/docs"),
        ]

    def _panel(self) -> RenderableType:
        facts = Table.grid(padding=(0, 2))
        for name, value in self._facts():
            facts.add_row(Text(name, style="dim"), Text(value, style="bold"))
        # The examples stand outside the frame: what is copied has no border in it.
        return Group(
            Panel(facts, title="Headrace is ready", border_style="green", expand=False),
            Syntax(f"{self._curl()}\n", "bash", theme="ansi_dark", background_color="default", word_wrap=True),
            Syntax(f"{self._python()}\n", "python", theme="ansi_dark", background_color="default", word_wrap=True),
            Text("Ctrl-C stops it.", style="dim"),
        )

    def _curl(self) -> str:
        key = "-H 'Authorization: Bearer YOUR_KEY' " if self.guarded else ""
        socket = f"--unix-socket {shlex.quote(str(self.door.uds))} " if self.door.uds is not None else ""
        return "\n".join(
            [
                f"curl {socket}{self.door.base_url}/v1/chat/completions {key}-H 'Content-Type: application/json' -d '{{",
                f'  "model": "{self.model}", "stream": true,',
                '  "messages": [{"role": "user", "content": "Why is the sky blue?"}]',
                "}'",
            ]
        )

    def _python(self) -> str:
        key = "YOUR_KEY" if self.guarded else "none"
        uds = self.door.uds
        over = f", http_client=httpx.Client(transport=httpx.HTTPTransport(uds={str(uds)!r}))" if uds is not None else ""
        return "\n".join(
            [
                *(["import httpx"] if uds is not None else []),
                "from openai import OpenAI",
                f'client = OpenAI(base_url="{self.door.base_url}/v1", api_key="{key}"{over})',
                f'stream = client.chat.completions.create(model="{self.model}", stream=True,',
                '    messages=[{"role": "user", "content": "Why is the sky blue?"}])',
                "for chunk in stream:",
                '    print(chunk.choices[0].delta.content or "", end="", flush=True)',
            ]
        )
