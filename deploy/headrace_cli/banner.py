"""What ``headrace serve`` shows when it is ready: what is served where, and how to talk to it."""

from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Ready:
    """A server that answers, with the model that its banner names. ``guarded``: it wants an API key."""

    base_url: str
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
        return [
            ("URL", f"{self.base_url}/v1"),
            ("Model", self.model),
            ("Context", f"{self.context_tokens:,} tokens"),
            ("KV cache", f"{self.kv_blocks:,} blocks"),
            ("Docs", f"{self.base_url}/docs"),
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
        return "\n".join(
            [
                f"curl {self.base_url}/v1/chat/completions {key}-H 'Content-Type: application/json' -d '{{",
                f'  "model": "{self.model}", "stream": true,',
                '  "messages": [{"role": "user", "content": "Why is the sky blue?"}]',
                "}'",
            ]
        )

    def _python(self) -> str:
        key = "YOUR_KEY" if self.guarded else "none"
        return "\n".join(
            [
                "from openai import OpenAI",
                f'client = OpenAI(base_url="{self.base_url}/v1", api_key="{key}")',
                f'stream = client.chat.completions.create(model="{self.model}", stream=True,',
                '    messages=[{"role": "user", "content": "Why is the sky blue?"}])',
                "for chunk in stream:",
                '    print(chunk.choices[0].delta.content or "", end="", flush=True)',
            ]
        )
