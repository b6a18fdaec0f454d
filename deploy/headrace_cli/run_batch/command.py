"""``headrace run-batch``: a file of requests in, a file of answers out."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvloop

from headrace_cli.banner import Ready
from headrace_cli.errors import EXIT_CONFIGURATION, EXIT_INTERRUPTED, CliError
from headrace_cli.local import LocalStack
from headrace_cli.run_batch import places
from headrace_cli.run_batch.answers import Answers
from headrace_cli.run_batch.asker import Asker
from headrace_cli.run_batch.batch import Batch
from headrace_cli.run_batch.lines import Lines
from headrace_cli.run_batch.offline import local_settings
from headrace_cli.terminal import Terminal
from headrace_shared.clock import mono_s

Work = Callable[[httpx.AsyncClient], Awaitable[None]]

# A whole answer may take its time; that a server has vanished without a word is for TCP to find out.
_TIMEOUT = httpx.Timeout(None, connect=10.0)
_KEEP_ALIVE = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)] + [
    (socket.IPPROTO_TCP, getattr(socket, name), value)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6))
    if hasattr(socket, name)
]


@dataclass(frozen=True)
class RunBatchSettings:
    """``url`` None: a stack of its own, whose servers have ``variables``. ``priority`` None: the server's default."""

    input_file: str
    output_file: str
    url: str | None
    api_key: str | None
    concurrency: int
    priority: int | None
    allowed_hosts: tuple[str, ...]
    max_input_bytes: int
    result_folder: Path | None
    variables: Mapping[str, str]


def run(settings: RunBatchSettings, terminal: Terminal) -> int:
    """Answer what has no answer yet. Returns the exit status: 130 when it was stopped before the end.

    Raises CliError for what keeps it from going on; what has been answered by then stays answered.
    """
    for place in (settings.input_file, settings.output_file):
        if places.is_url(place):
            places.check_url(place, settings.allowed_hosts)
    if places.same_file(settings.input_file, settings.output_file):
        raise CliError("input and output are the same file", exit_code=EXIT_CONFIGURATION)
    with places.input_file(settings.input_file, settings.max_input_bytes) as path:
        try:
            lines = Lines(path)
        except OSError as error:
            raise CliError(f"cannot read {settings.input_file}: {error.strerror}") from None
        with _answers(settings, lines) as answers:
            done_before = len(answers.done)
            begun_s = mono_s()
            finished, failed = _run(settings, lines, answers, terminal)
            terminal.line(_summary(lines, answers, done_before, failed, mono_s() - begun_s))
            if not finished:
                return EXIT_INTERRUPTED
    if places.is_url(settings.output_file):
        file = places.result_file(settings.output_file, settings.result_folder)
        places.upload(file, settings.output_file)
        file.unlink()
        terminal.line(f"Sent to {places.shown(settings.output_file)}")
    return 0


@contextlib.contextmanager
def _answers(settings: RunBatchSettings, lines: Lines) -> Iterator[Answers]:
    if settings.output_file == places.STREAM:
        yield Answers.to_stdout(sys.stdout.fileno())
        return
    path = Path(settings.output_file)
    if places.is_url(settings.output_file):
        path = places.result_file(settings.output_file, settings.result_folder)
    with Answers.resumed(path, lines.digests) as answers:
        yield answers


def _run(settings: RunBatchSettings, lines: Lines, answers: Answers, terminal: Terminal) -> tuple[bool, int]:
    """Whether it came to the end, and how many of this run's lines failed."""
    failed = 0
    if len(answers.done) == len(lines):
        return True, failed
    if answers.done:
        terminal.line(f"{len(answers.done):,} of {len(lines):,} lines have their answers in {answers.name} already")

    async def work(http: httpx.AsyncClient) -> None:
        nonlocal failed
        asker = Asker(http, answers.run, settings.priority, terminal.line)
        await asker.check()
        with terminal.tallying("Lines", len(lines), len(answers.done)) as tally:
            batch = Batch(lines, answers, tally)
            try:
                await batch.run(asker, settings.concurrency)
            finally:
                failed = batch.failed

    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_online(settings, work) if settings.url else _offline(settings, work, terminal))
    return len(answers.done) == len(lines), failed


async def _online(settings: RunBatchSettings, work: Work) -> None:
    headers = {"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
    limits = _limits(settings)
    transport = httpx.AsyncHTTPTransport(limits=limits, socket_options=_KEEP_ALIVE)
    base_url = _base_url(settings.url or "")
    async with httpx.AsyncClient(base_url=base_url, headers=headers, timeout=_TIMEOUT, transport=transport) as http:
        await work(http)


def _base_url(url: str) -> str:
    try:
        base = httpx.URL(url if places.is_url(url) else f"http://{url}")
    except httpx.InvalidURL:
        base = httpx.URL()
    if base.scheme not in ("http", "https") or not base.host:
        raise CliError(f"not an http:// or https:// address: {url}", exit_code=EXIT_CONFIGURATION)
    return str(base).rstrip("/").removesuffix("/v1")


async def _offline(settings: RunBatchSettings, work: Work, terminal: Terminal) -> None:
    with local_settings(settings.variables, terminal) as local:

        async def with_stack(_ready: Ready) -> None:
            async with local.door.client(timeout=_TIMEOUT, limits=_limits(settings)) as http:
                await work(http)

        await LocalStack(local, terminal).run(with_stack)


def _limits(settings: RunBatchSettings) -> httpx.Limits:
    return httpx.Limits(max_connections=settings.concurrency + 1, max_keepalive_connections=settings.concurrency + 1)


def _summary(lines: Lines, answers: Answers, done_before: int, failed: int, took_s: float) -> str:
    count = len(answers.done) - done_before
    text = f"{count:,} lines in {took_s:.1f} s, {failed:,} of them failed"
    if len(answers.done) == len(lines):
        return f"{text}; {answers.name} has an answer for all {len(lines):,}"
    left = f"{len(lines) - len(answers.done):,} of {len(lines):,} are left"
    return f"{text}; {left}; " + (
        f"the same command goes on from {answers.name}"
        if answers.durable
        else "what was written to stdout cannot be gone on from"
    )
