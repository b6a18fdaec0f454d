"""The load generator's own HTTP: any way of cutting an answer into packets gives the same events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_cli.bench.connection import BrokenResponseError, Connection, Response, ResponseParser, Target
from headrace_cli.errors import CliError

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM = b": ping\n\nid: a:1\ndata: one\n\ndata: two\r\n\r\nid: a:3\r\ndata:three\n\n"


def chunked(body: bytes, sizes: list[int]) -> bytes:
    out = b""
    for size in sizes:
        piece, body = body[:size], body[size:]
        out += b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
    return out + (b"%x;note=1\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"


@given(st.lists(st.integers(1, 12), max_size=20), st.lists(st.integers(1, 30), max_size=40))
def test_the_events_are_the_same_however_the_answer_is_cut(chunks: list[int], packets: list[int]) -> None:
    answer, events = HEAD + chunked(STREAM, chunks), []
    parser = ResponseParser(lambda data, _: events.append(data))
    done = None
    for size in [*packets, len(answer)]:
        packet, answer = answer[:size], answer[size:]
        done = parser.feed(packet, 0.0) or done
    assert done == Response(200, b"")
    assert events == [b"one", b"two", b"three"]


def test_an_ordinary_answer_is_handed_over_whole() -> None:
    parser = ResponseParser(lambda *_: pytest.fail("no event stream"))
    assert parser.feed(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\nConnection: close\r\n\r\nno", 0.0) is None
    assert parser.feed(b"ne!", 0.0) == Response(404, b"none!")
    assert not parser.keep_alive


def test_what_is_not_http_is_refused() -> None:
    with pytest.raises(ValueError, match="SSH"):
        ResponseParser().feed(b"SSH-2.0-server \r\n\r\n", 0.0)


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("http://a:81/v1", "a", 81, ""),
        ("https://a/", "a", 443, ""),
        ("a:8000", "a", 8000, ""),
        ("http://[::1]:8000/proxy/v1/", "::1", 8000, "/proxy"),
    ],
)
def test_a_base_url_may_be_written_in_several_ways(url: str, host: str, port: int, path: str) -> None:
    target = Target.parse(url, None)
    assert (target.host, target.port, target.path) == (host, port, path)


@pytest.mark.parametrize("url", ["ftp://a", "http://", "http://a:port"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(CliError):
        Target.parse(url, None)


class Closing:
    """A server that closes each connection behind its answer without having said so, as soon as more is asked of it."""

    def __init__(self, silent: bool = False) -> None:
        self.tasks: list[asyncio.Task[object] | None] = []
        self._silent = silent

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.append(asyncio.current_task())
        await reader.readuntil(b"\r\n\r\n")
        if not self._silent:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await reader.read(1)
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def connected(server: Closing) -> AsyncIterator[Connection]:
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        connection = Connection(Target.parse(f"http://127.0.0.1:{port}", None))
        yield connection
        connection.close()
        await asyncio.gather(*filter(None, server.tasks))


async def test_a_request_on_a_connection_that_is_given_up_just_then_goes_out_again() -> None:
    server = Closing()
    async with connected(server) as connection:
        for _ in range(3):
            assert await connection.request("GET", "/") == Response(200, b"ok")
    assert len(server.tasks) == 3


async def test_a_new_connection_that_ends_without_an_answer_is_a_failure() -> None:
    server = Closing(silent=True)
    async with connected(server) as connection:
        with pytest.raises(BrokenResponseError, match="closed"):
            await connection.request("GET", "/")
    assert len(server.tasks) == 1
