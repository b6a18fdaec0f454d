"""BatchJobs: arq's queue, through which batches find a worker.

All of arq's keys have one hash tag, so that they are on one server of a cluster, as its transactions need it. What is in
them is MessagePack: nothing that comes out of Redis is unpickled.
"""

import logging
from collections.abc import Callable
from typing import Any

import msgspec
from arq import ArqRedis
from redis.asyncio import Redis

from headrace_shared.clock import wall_s
from headrace_shared.errors import UnavailableError
from headrace_shared.queue.client import pool_for, reaching

log = logging.getLogger(__name__)

TAG = "{hr-batch}"
QUEUE = f"arq:{TAG}"
WORK = "work"
"""arq's name of the job that takes a batch up."""
_SAME_WITHIN_S = 2
_EXPIRES_MS = 60_000
"""A job that nobody has taken by then is offered again by whoever looks for batches without an owner."""


class BatchJobs:
    """Offers batches to whoever has room. Needed by nobody: workers look for batches by themselves, only later."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def announce(self, batch_id: str) -> None:
        """Have some worker take it up soon. Does not fail when Redis is away."""
        # The same batch is offered again when its worker has died, so its id alone would not do.
        job_id = f"{TAG}{batch_id}:{wall_s() // _SAME_WITHIN_S}"
        try:
            async with reaching(self._redis, operation="batch_job"):
                await (await self.client()).enqueue_job(WORK, batch_id, _job_id=job_id)
        except UnavailableError:
            log.info("batch will be found later", extra={"batch": batch_id})

    async def client(self) -> ArqRedis:
        """arq's own, on our connections. Raises what redis-py does when Redis is away."""
        return ArqRedis(
            await pool_for(self._redis, QUEUE),
            job_serializer=encode,
            job_deserializer=decode,
            default_queue_name=QUEUE,
            expires_extra_ms=_EXPIRES_MS,
        )


# What arq says of a job that failed holds the exception itself.
encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder(enc_hook=repr).encode
decode: Callable[[bytes], Any] = msgspec.msgpack.decode
