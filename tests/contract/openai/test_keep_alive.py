"""Idle connections stay usable for longer than clients keep them."""

import asyncio
import http.client
from urllib.parse import urlsplit

import pytest
from live_api import running_api


@pytest.mark.slow
async def test_a_connection_that_was_idle_for_six_seconds_takes_a_request(valkey_url: str) -> None:
    async with running_api(valkey_url) as api:
        where = urlsplit(api.base_url)
        connection = http.client.HTTPConnection(str(where.hostname), where.port)

        def ask() -> int:
            connection.request("GET", "/health")
            response = connection.getresponse()
            response.read()
            return response.status

        assert await asyncio.to_thread(ask) == 200
        used = connection.sock
        await asyncio.sleep(6)
        assert await asyncio.to_thread(ask) == 200
        assert connection.sock is used
        connection.close()
