"""An API process that already knows one model, and the scripted worker that serves it."""

from collections.abc import AsyncIterator

import pytest
from live_api import Api, running_api
from scripted_worker import ScriptedWorker, running_worker


@pytest.fixture
async def worker(valkey_url: str) -> AsyncIterator[ScriptedWorker]:
    """A worker of the model ``tiny`` (alias ``small/alias``) that says hello."""
    async with running_worker(valkey_url, aliases=("small/alias",)) as worker:
        yield worker


@pytest.fixture
async def api(valkey_url: str, worker: ScriptedWorker) -> AsyncIterator[Api]:
    """An API process that already knows the model."""
    async with running_api(valkey_url) as api:
        yield api
