"""``headrace run-batch`` against servers that run: a real API node, and ones that are busy, broken or away."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from live_api import Api, running_api
from scripted_worker import ScriptedWorker, running_worker
from typer.testing import CliRunner, Result

from headrace_cli.errors import CliError
from headrace_cli.main import app

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
Answer = tuple[int, dict[str, str], bytes]


def request(custom_id: str, url: str = "/v1/chat/completions", **body: object) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body or CHAT}


def write(file: Path, *entries: object) -> Path:
    file.write_text("".join(f"{entry if isinstance(entry, str) else json.dumps(entry)}\n" for entry in entries))
    return file


def read(file: Path) -> dict[str | None, dict[str, Any]]:
    """By custom_id, of which none may be there twice."""
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    counts = Counter(entry["custom_id"] for entry in entries if entry["custom_id"] is not None)
    assert set(counts.values()) <= {1}
    assert len({entry["id"] for entry in entries}) == len(entries)
    return {entry["custom_id"]: entry for entry in entries}


async def run_batch(*arguments: object) -> Result:
    words = ["run-batch", *map(str, arguments)]
    result = await asyncio.to_thread(CliRunner().invoke, app, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
async def worker(valkey_url: str) -> AsyncIterator[ScriptedWorker]:
    async with running_worker(valkey_url) as worker:
        yield worker


@pytest.fixture
async def api(valkey_url: str, worker: ScriptedWorker) -> AsyncIterator[Api]:
    async with running_api(valkey_url) as api:
        yield api


@asynccontextmanager
async def server(answer: Callable[[str, str, dict[str, str], bytes], Answer | None]) -> AsyncIterator[str]:
    """A server that answers as it is told, by method, path, headers and body; None: it hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await _head(reader):
                method, path, headers = head
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if (said := answer(method, path, headers, body)) is None:
                    break
                status, more, content = said
                lines = [
                    f"HTTP/1.1 {status} x",
                    f"content-length: {len(content)}",
                    *(f"{k}: {v}" for k, v in more.items()),
                ]
                writer.write("\r\n".join([*lines, "", ""]).encode() + content)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()
        await asyncio.sleep(0)


async def _head(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str]] | None:
    first = (await reader.readline()).decode()
    if not first:
        return None
    headers = {}
    while line := (await reader.readline()).decode().strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    method, path, _ = first.split(" ")
    return method, path, headers


async def test_each_line_gets_the_answer_of_its_endpoint(api: Api, worker: ScriptedWorker, tmp_path: Path) -> None:
    source = write(
        tmp_path / "in.jsonl",
        request("chat"),
        request("text", "/v1/completions", prompt="hi", model="tiny"),
        request("response", "/v1/responses", input="hi"),
        request("claude", "/v1/messages", max_tokens=9, **CHAT),
        request("urgent", "/v1/completions", prompt="now", priority=3),
        request("unknown", "/v1/completions", prompt="hi", model="nobody"),
    )
    result = await run_batch("-i", source, "-o", tmp_path / "out.jsonl", "--url", f"{api.base_url}/v1/")
    assert result.exit_code == 0
    assert "6 lines in" in result.stderr
    assert "1 of them failed" in result.stderr
    entries = read(tmp_path / "out.jsonl")
    assert set(entries) == {"chat", "text", "response", "claude", "urgent", "unknown"}
    bodies = {custom_id: entry["response"]["body"] for custom_id, entry in entries.items()}
    assert bodies["chat"]["choices"][0]["message"]["content"] == "Hello!"
    assert bodies["text"]["choices"][0]["text"] == "Hello!"
    assert bodies["response"]["output"][0]["content"][0]["text"] == "Hello!"
    assert bodies["claude"]["content"][0]["text"] == "Hello!"
    good = entries["chat"]
    assert list(good) == ["id", "custom_id", "response", "error"]
    assert (good["response"]["status_code"], good["error"]) == (200, None)
    assert bodies["chat"]["id"] == f"chatcmpl-{good['response']['request_id']}"
    bad = entries["unknown"]
    assert (bad["response"]["status_code"], bad["error"]["code"]) == (404, "model_not_found")
    assert bad["response"]["body"]["error"]["message"] == bad["error"]["message"]
    assert Counter(claim.job.header.priority for claim in worker.claims) == {100: 4, 3: 1}


async def test_bad_lines_are_error_lines_and_stop_nothing(api: Api, worker: ScriptedWorker, tmp_path: Path) -> None:
    source = write(
        tmp_path / "in.jsonl",
        request("first"),
        "{broken",
        "",
        request("first", "/v1/completions", prompt="again"),
        request("image", "/v1/images/generations", prompt="x"),
        request("last"),
    )
    assert (await run_batch("-i", source, "-o", tmp_path / "out", "--url", api.base_url)).exit_code == 0
    entries = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert sorted(str(e["custom_id"]) for e in entries if e["response"]) == ["first", "last"]
    problems = sorted(e["error"]["message"] for e in entries if e["error"])
    assert all(e["error"]["code"] == "invalid_line" for e in entries if e["error"])
    assert problems[0].startswith("line 2: is not JSON")
    assert problems[1] == "line 4: custom_id 'first' is that of line 1"
    assert (
        problems[2]
        == "line 5: url: should be one of /v1/chat/completions, /v1/chat/completions/batch, /v1/completions, /v1/responses, /v1/messages"
    )
    assert len(worker.claims) == 2


async def test_a_run_goes_on_after_the_last_whole_line(api: Api, worker: ScriptedWorker, tmp_path: Path) -> None:
    source = write(
        tmp_path / "in.jsonl", *(request(f"r{i}", "/v1/completions", prompt=f"p{i}") for i in range(12)), "{"
    )
    out = tmp_path / "out.jsonl"
    arguments = ("-i", source, "-o", out, "--url", api.base_url)
    await run_batch(*arguments)
    whole = out.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in (b"", lines[0][:9], b"".join(lines[:5]), b"".join(lines[:5]) + lines[5][:-1], b"".join(lines[:12])):
        out.write_bytes(cut)
        before, kept = len(worker.claims), cut[: cut.rfind(b"\n") + 1]
        result = await run_batch(*arguments)
        assert out.read_bytes().startswith(kept)
        assert len(read(out)) == 13
        # Nothing is computed twice: what was cut off is told again by the server, as long as it keeps answers.
        if kept:
            assert len(worker.claims) == before
            assert f"{len(kept.splitlines())} of 13 lines have their answers" in result.stderr
    complete = out.read_bytes()
    assert "0 lines in" in (await run_batch(*arguments)).stderr
    assert out.read_bytes() == complete


async def test_an_output_of_something_else_is_left_alone(api: Api, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    await run_batch("-i", write(tmp_path / "in.jsonl", request("a")), "-o", out, "--url", api.base_url)
    held = out.read_bytes()
    other = write(tmp_path / "other.jsonl", request("b"))
    with pytest.raises(CliError, match="answers to another input, in line 1"):
        await run_batch("-i", other, "-o", out, "--url", api.base_url)
    assert out.read_bytes() == held
    for text in ("my notes\n", "my notes", '{"id": "chatcmpl-7"}\n'):
        out.write_text(text)
        with pytest.raises(CliError, match="something else than answers"):
            await run_batch("-i", other, "-o", out, "--url", api.base_url)
        assert out.read_text() == text
    with pytest.raises(CliError, match="the same file"):
        await run_batch("-i", other, "-o", other, "--url", api.base_url)


async def test_a_busy_or_broken_server_is_asked_again_under_the_same_key(tmp_path: Path) -> None:
    tries: Counter[str] = Counter()
    keys: dict[str, set[str]] = {}

    def moody(_method: str, path: str, headers: dict[str, str], body: bytes) -> Answer | None:
        if path == "/v1/models":
            return 200, {}, b"{}"
        prompt = json.loads(body)["prompt"]
        keys.setdefault(prompt, set()).add(headers["idempotency-key"])
        tries[prompt] += 1
        moods: list[Answer | None] = [
            (429, {"Retry-After-Ms": "20"}, b'{"error": {"message": "full"}}'),
            None,
            (503, {"Retry-After": "0"}, b"down"),
            (200, {}, b'{\n "text": "\xc3\xa9",\n "big": 12345678901234567890}'),
        ]
        return moods[tries[prompt] - 1]

    source = write(tmp_path / "in.jsonl", *(request(f"r{i}", "/v1/completions", prompt=f"p{i}") for i in range(5)))
    async with server(moody) as url:
        result = await run_batch("-i", source, "-o", tmp_path / "out", "--url", url)
    assert result.stderr.count("trying again: ") == 1
    entries = read(tmp_path / "out")
    assert {json.dumps(e["response"]["body"]) for e in entries.values()} == {
        '{"text": "\\u00e9", "big": 12345678901234567890}'
    }
    assert set(tries.values()) == {4}
    assert all(len(each) == 1 for each in keys.values())
    assert len(set.union(*keys.values())) == 5


async def test_refusals_and_nonsense_are_told_with_their_status(tmp_path: Path) -> None:
    def say(_method: str, path: str, _headers: dict[str, str], body: bytes) -> Answer | None:
        if path == "/v1/models":
            return 404, {}, b"?"
        status = json.loads(body)["prompt"]
        return status, {}, b"<html>" if status == 500 else b'{"error": {"message": "no", "code": "why"}}'

    source = write(tmp_path / "in", *(request(str(i), "/v1/completions", prompt=i) for i in (400, 422, 500)))
    async with server(say) as url:
        await run_batch("-i", source, "-o", tmp_path / "out", "--url", url)
    entries = read(tmp_path / "out")
    assert entries["400"]["response"]["status_code"] == 400
    assert entries["422"]["error"] == {"code": "why", "message": "no"}
    assert entries["500"]["response"] is None
    assert entries["500"]["error"] == {"code": "not_json", "message": "line 3: HTTP 500 without JSON: <html>"}


async def test_a_key_that_is_refused_ends_it_before_any_line(valkey_url: str, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", request("a"))
    async with running_worker(valkey_url), running_api(valkey_url, api_keys="k") as api:
        for more in ((), ("--api-key", "wrong")):
            with pytest.raises(CliError, match="--api-key"):
                await run_batch("-i", source, "-o", tmp_path / "out", "--url", api.base_url, *more)
        assert (tmp_path / "out").read_bytes() == b""
        await run_batch("-i", source, "-o", tmp_path / "out", "--url", api.base_url, "--api-key", "k")
    assert read(tmp_path / "out")["a"]["error"] is None


async def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", request("a"))
    with pytest.raises(CliError, match=r"cannot reach http://127\.0\.0\.1:1"):
        await run_batch("-i", source, "-o", tmp_path / "out", "--url", "127.0.0.1:1")
    with pytest.raises(CliError, match="not an http"):
        await run_batch("-i", source, "-o", tmp_path / "out", "--url", "ftp://there")


async def test_urls_of_allowed_hosts_are_read_and_written(api: Api, tmp_path: Path) -> None:
    stored: dict[str, bytes] = {"/in.jsonl": (json.dumps(request("a")) + "\n").encode()}
    refused = ["once"]

    def storage(method: str, path: str, _headers: dict[str, str], body: bytes) -> Answer | None:
        name = path.partition("?")[0]
        if method == "GET":
            return (302, {"location": "http://elsewhere/x?sig=s"}, b"") if name == "/moved" else (200, {}, stored[name])
        if refused:
            refused.pop()
            return 500, {}, b""
        stored[name] = body
        return 201, {}, b""

    async with server(storage) as url:
        common = ("--url", api.base_url, "--output-tmp-dir", tmp_path / "kept")
        host = url.removeprefix("http://")
        with pytest.raises(CliError, match=f"not an allowed host; allow it with --allowed-hosts {host}"):
            await run_batch("-i", f"{url}/in.jsonl", "-o", tmp_path / "out", *common)
        with pytest.raises(CliError, match="not an allowed host"):
            await run_batch("-i", f"{url}/in.jsonl", "-o", "http://other/out", *common, "--allowed-hosts", host)
        allowed = (*common, "--allowed-hosts", f"example.com,{host}")
        with pytest.raises(CliError, match=r"give the last address itself: http://elsewhere/x$"):
            await run_batch("-i", f"{url}/moved", "-o", tmp_path / "out", *allowed)
        with pytest.raises(CliError, match="larger than 5 bytes"):
            await run_batch("-i", f"{url}/in.jsonl", "-o", tmp_path / "out", *allowed, "--max-input-bytes", 5)
        assert not (tmp_path / "out").exists()
        result = await run_batch("-i", f"{url}/in.jsonl?X-Sig=q", "-o", f"{url}/out.jsonl?X-Sig=secret", *allowed)
    assert "secret" not in result.stderr
    (tmp_path / "got").write_bytes(stored["/out.jsonl"])
    assert read(tmp_path / "got")["a"]["error"] is None
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize("place", ["ftp://host/x", "file:///etc/passwd", "http://host:x/"])
async def test_other_schemes_are_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(CliError, match="neither a file nor an http:// or https:// URL"):
        await run_batch("-i", place, "-o", tmp_path / "out", "--url", "x", "--allowed-hosts", "host")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--model MODEL on this machine"),
        (["--url", "x", "--model", "m", "--dtype", "half"], "--model, --dtype: is for a model on this machine"),
        (["--model", "m", "--priority", "3"], "--priority is for a running server"),
        (["--model", "m", "--api-key", "k"], "--api-key is for a running server"),
        (["--url", "x", "--pipeline-parallel-size", "2"], "--pipeline-parallel-size 2: "),
    ],
)
async def test_what_contradicts_itself_is_told(tmp_path: Path, arguments: list[str], words: str) -> None:
    source = write(tmp_path / "in.jsonl", request("a"))
    with pytest.raises(CliError) as caught:
        await run_batch("-i", source, "-o", tmp_path / "out", *arguments)
    assert words in caught.value.message
    assert caught.value.exit_code == 2


async def test_an_input_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="there is no file"):
        await run_batch("-i", tmp_path / "none", "-o", tmp_path / "out", "--url", "x")


def test_the_command_explains_itself_with_an_example() -> None:
    shown = CliRunner().invoke(app, ["run-batch", "--help"])
    assert "headrace run-batch -i in.jsonl" in shown.output.split("Example")[1]
