"""The load generator's own HTTP: any way of cutting an answer into packets gives the same events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_cli.bench.connection import Response, ResponseParser, Target
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
