"""``headrace bench compare`` on servers whose paces are known."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from headrace_cli.errors import CliError
from headrace_cli.main import app


class Paced:
    """A server that streams completions: a token every ``step_s``, after a first one at ``first_s``."""

    def __init__(self, step_s: float, first_s: float, refuse: bool = False) -> None:
        self.step_s, self.first_s, self.refuse = step_s, first_s, refuse
        self.prompts: list[list[int]] = []
        self.keys: set[str] = set()
        self.models: set[str] = set()
        self.turns: list[str] | None = None
        self.name = ""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while first := await reader.readline():
                headers = {}
                while line := (await reader.readline()).decode().strip():
                    key, _, value = line.partition(": ")
                    headers[key.lower()] = value
                self.keys.add(headers.get("authorization", ""))
                body = await reader.readexactly(int(headers["content-length"]))
                if first.startswith(b"GET"):
                    self._send(writer, b'{"data": [{"id": "paced"}]}')
                elif self.refuse:
                    self._send(writer, b'{"error": {"message": "no room"}}', "429 x")
                else:
                    await self._stream(writer, json.loads(body))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _stream(self, writer: asyncio.StreamWriter, body: dict) -> None:
        self.prompts.append(body["prompt"])
        self.models.add(body["model"])
        if self.turns is not None:
            self.turns.append(self.name)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        await asyncio.sleep(self.first_s)
        for number in range(body["max_tokens"]):
            if number:
                await asyncio.sleep(self.step_s)
            self._event(writer, json.dumps({"choices": [{"text": " a", "finish_reason": None}]}))
        tokens = {"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"]}
        self._event(writer, json.dumps({"choices": [], "usage": tokens}))
        self._event(writer, "[DONE]")
        writer.write(b"0\r\n\r\n")

    @staticmethod
    def _event(writer: asyncio.StreamWriter, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        writer.write(b"%x\r\n%b\r\n" % (len(event), event))

    @staticmethod
    def _send(writer: asyncio.StreamWriter, body: bytes, status: str = "200 OK") -> None:
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)


@asynccontextmanager
async def serving(*servers: Paced) -> AsyncIterator[list[str]]:
    listening = [await asyncio.start_server(server, "127.0.0.1", 0) for server in servers]
    try:
        yield [f"127.0.0.1:{each.sockets[0].getsockname()[1]}" for each in listening]
    finally:
        for each in listening:
            each.close()
        await asyncio.sleep(0)


async def compare(*arguments: object) -> Result:
    result = await asyncio.to_thread(CliRunner().invoke, app, ["bench", "compare", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


async def test_the_ratio_is_that_of_the_paces_and_is_shown_drawn_and_written(tmp_path: Path) -> None:
    # Long enough that a busy machine's own delays are small beside them.
    slow, fast = Paced(0.06, 0.12), Paced(0.03, 0.03)
    async with serving(slow, fast) as urls:
        result = await compare(
            *urls, "--load", "4:9", "-c", 2, "--pairs", 3, "-n", 4, "--name", "slow <1>", "--name", "fast",
            "--json", tmp_path / "f.json", "--svg", tmp_path / "f.svg",
        )  # fmt: skip
    assert result.exit_code == 0, result.output
    (load,) = json.loads((tmp_path / "f.json").read_text())["loads"]
    rows = {row["metric"]: row for row in load["metrics"]}
    assert 1.6 < rows["Output tokens/s"]["ratio"] < 2.6
    assert 0.35 < rows["ITL p50, ms"]["ratio"] < 0.75
    assert 0.15 < rows["TTFT p50, ms"]["ratio"] < 0.6
    assert all(len(row["ratios"]) == 3 for row in rows.values())
    assert all(min(row["ratios"]) <= row["ratio"] <= max(row["ratios"]) for row in rows.values())
    assert load["errors"] == {}
    shown = next(line for line in result.output.splitlines() if line.startswith("Output tokens/s"))
    assert f"{rows['Output tokens/s']['ratio']:.3f}" in shown.split()
    assert "A: paced at slow <1>" in result.output
    drawn = ElementTree.fromstring((tmp_path / "f.svg").read_text())  # noqa: S314 - our own
    texts = [element.text or "" for element in drawn.iter() if element.tag.endswith("text")]
    assert "B / A: fast / slow <1>" in texts
    assert texts.count("4:9, 2 at once") == 3
    dots = [element for element in drawn.iter() if element.tag.endswith("circle")]
    assert len(dots) == 9
    assert all(210 <= float(dot.attrib["cx"]) <= 630 for dot in dots)


async def test_pairs_have_equal_prompts_and_no_two_pairs_the_same_and_sides_take_turns_to_begin() -> None:
    a, b = Paced(0.001, 0.001), Paced(0.001, 0.001)
    turns: list[str] = []
    a.turns = b.turns = turns
    a.name, b.name = "a", "b"
    async with serving(a, b) as urls:
        await compare(*urls, "--load", "A", "--load", "b", "-c", 1, "--pairs", 3, "-n", 2)
    assert sorted(a.prompts) == sorted(b.prompts)
    assert len({tuple(prompt) for prompt in a.prompts}) == len(a.prompts) == 2 * (1 + 3 * 2)
    assert sorted(map(len, a.prompts)) == [16] * 7 + [128] * 7
    assert "".join(turns) == ("ab" + "aabb" + "bbaa" + "aabb") * 2


async def test_keys_and_models_are_each_sides_own() -> None:
    a, b = Paced(0.001, 0.001), Paced(0.001, 0.001)
    own = ("--api-key", "ka", "--api-key", "kb", "--model", "ma", "--model", "mb")
    async with serving(a, b) as urls:
        await compare(*urls, "--load", "1:2", "-c", 1, "--pairs", 1, *own)
    assert (a.keys, b.keys) == ({"Bearer ka"}, {"Bearer kb"})
    assert (a.models, b.models) == ({"ma"}, {"mb"})


async def test_failures_are_told_and_end_with_status_1() -> None:
    good, bad = Paced(0.001, 0.001), Paced(0.001, 0.001, refuse=True)
    async with serving(good, bad) as urls:
        with pytest.raises(CliError, match="does not answer as expected: HTTP 429: no room"):
            await compare(*urls, "--load", "1:2", "-c", 1, "--pairs", 1)
        bad.refuse = False

        class Souring(Paced):
            async def _stream(self, writer: asyncio.StreamWriter, body: dict) -> None:
                if len(self.prompts) > 2:
                    self.refuse = True
                await super()._stream(writer, body)

        souring = Souring(0.001, 0.001)
        async with serving(souring) as more:
            result = await compare(urls[0], more[0], "--load", "1:2", "-c", 1, "--pairs", 2, "-n", 4)
    assert result.exit_code == 1
    assert "x B: HTTP 429: no room" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "a", "b", "--load", "C"], "--load C: is A, B or IN:OUT"),
        (["compare", "a", "b", "--name", "x"], "--name is given twice"),
        (
            ["compare", "a", "b", "--api-key", "1", "--api-key", "2", "--api-key", "3"],
            "--api-key is given once or twice",
        ),
        (["-c", "4", "compare", "a", "b"], "--concurrency goes behind compare"),
        (["compare", "ftp://a", "b"], "not an http:// or https:// address"),
    ],
)
def test_what_cannot_be_done_is_told(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert isinstance(result.exception, CliError)
    assert words in result.exception.message


def test_the_command_explains_itself_with_an_example() -> None:
    shown = CliRunner().invoke(app, ["bench", "compare", "--help"])
    assert "headrace bench compare http" in shown.output.split("Example")[1]
