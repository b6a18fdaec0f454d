"""What is written at once still waits for a client that does not read, and goes on when it does."""

import asyncio

import uvicorn
import uvloop
from eventually import eventually
from ports import free_port
from starlette.types import Receive, Scope, Send

from headrace_api.__main__ import PromptWriter

PIECE, PIECES = b"x" * 65536, 400


async def _read_late(port: int) -> tuple[int, int]:
    """How many pieces were sent while the client did not read, and how many bytes came in the end."""
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(PIECES):
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
            sent += 1
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    config = uvicorn.Config(app, port=port, http=PromptWriter, ws="none", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())

    async def started() -> bool:
        return server.started

    await eventually(started)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    await asyncio.sleep(0.5)
    unread = sent
    async with asyncio.timeout(20):
        came = 0
        while part := await reader.read(2**20):
            came += part.count(b"x")
    writer.close()
    server.should_exit = True
    await serving
    return unread, came


def test_a_client_that_reads_late_holds_the_writer_up_and_gets_everything() -> None:
    unread, came = uvloop.run(_read_late(free_port()))
    assert 0 < unread < PIECES
    assert came == PIECES * len(PIECE)
