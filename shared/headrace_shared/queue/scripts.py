"""The Lua scripts beside this file: each state change of a request is one of them, atomic and idempotent."""

import hashlib
from enum import StrEnum
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from headrace_shared.queue.client import reaching

_FOLDER = Path(__file__).parent


class Script(StrEnum):
    """One per .lua file; state.lua is what those of a queue share."""

    ENQUEUE = "enqueue"
    CLAIM = "claim"
    APPEND = "append"
    RENEW = "renew"
    REAP = "reap"
    CANCEL = "cancel"
    FORGET = "forget"
    DESCRIBE = "describe"
    BACKLOG = "backlog"
    SURVEY = "survey"
    ANNOUNCE = "announce"
    FLEET = "fleet"
    QUEUES = "queues"
    NODES = "nodes"
    RATE_LIMIT = "rate_limit"
    FILE_ADD = "file_add"
    FILE_REMOVE = "file_remove"
    BATCH_CREATE = "batch_create"
    BATCH_LEASE = "batch_lease"
    BATCH_ADMIT = "batch_admit"
    BATCH_RECORD = "batch_record"
    BATCH_MOVE = "batch_move"
    BATCH_WAITING = "batch_waiting"
    WEBHOOK_TAKE = "webhook_take"
    WEBHOOK_NOTE = "webhook_note"


_WITHOUT_STATE = {Script.ANNOUNCE, Script.FLEET, Script.QUEUES, Script.NODES, Script.RATE_LIMIT} | {
    script for script in Script if script.startswith(("file_", "batch_", "webhook_"))
}


def _source(script: Script) -> bytes:
    body = (_FOLDER / f"{script}.lua").read_bytes()
    return body if script in _WITHOUT_STATE else (_FOLDER / "state.lua").read_bytes() + body


_SOURCES = {script: _source(script) for script in Script}
_DIGESTS = {script: hashlib.sha1(source, usedforsecurity=False).hexdigest() for script, source in _SOURCES.items()}


async def run_script(redis: Redis, script: Script, base: str, *args: bytes | str | int) -> Any:
    """Run one script on the keys below ``base`` and return its reply, unparsed.

    Raises UnavailableError when Redis cannot be reached in time; the script may have run nevertheless.
    """
    client: Any = redis  # its annotations allow neither bytes nor numbers as arguments
    async with reaching(redis, operation=script.value):
        try:
            return await client.evalsha(_DIGESTS[script], 1, base, *args)
        except NoScriptError:  # a restarted or flushed server; EVAL also stores it
            return await client.eval(_SOURCES[script], 1, base, *args)
