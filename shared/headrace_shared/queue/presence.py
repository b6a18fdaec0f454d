"""Presence: which workers are alive, and which models they serve."""

import logging
from dataclasses import dataclass

import msgspec
from redis.asyncio import Redis

from headrace_shared.model_card import ModelCard
from headrace_shared.queue import keys
from headrace_shared.queue.blobs import KEEP_MS
from headrace_shared.queue.client import reaching
from headrace_shared.queue.scripts import Script, run_script

log = logging.getLogger(__name__)


class WorkerState(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What one worker says of itself, about once a second."""

    worker_id: str
    queue: str
    card_digest: str
    state: str = "starting"
    """``starting``, ``ready`` or ``draining``."""
    host: str = ""
    pid: int = 0
    started_ms: int = 0
    kv_blocks_total: int = 0
    kv_blocks_free: int = 0
    running: int = 0
    waiting: int = 0
    max_num_seqs: int = 0
    tokens_per_s: float = 0.0
    """Generated lately."""
    step_ms: float = 0.0
    """What a step takes lately, on average."""
    prefix_hit_rate: float = 0.0
    """Share of the prompts' tokens that were found in the cache, since its start."""
    metrics_url: str = ""
    """Where its /metrics is; empty: it has none."""


@dataclass(frozen=True, slots=True)
class LiveModel:
    """A model card and the workers that hold a lease with it, at least one."""

    card: ModelCard
    workers: list[WorkerState]


@dataclass(frozen=True, slots=True)
class Fleet:
    """Ordered by model name, then by card digest. Two entries may claim the same name."""

    models: list[LiveModel]


class Presence:
    """Every method raises UnavailableError when Redis is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._cards: dict[str, ModelCard] = {}
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode_state = msgspec.msgpack.Decoder(WorkerState).decode
        self._decode_card = msgspec.msgpack.Decoder(ModelCard).decode

    async def announce(self, card: ModelCard, state: WorkerState, lease_ms: int) -> list[str]:
        """Be seen for ``lease_ms`` more milliseconds; renews the card and its blobs with it.

        Returns the digests of the card's blobs that Redis no longer has: they must be put again.
        """
        digests = [digest for digest in (card.tokenizer, card.chat_template) if digest]
        missing: list[bytes] = await run_script(
            self._redis,
            Script.ANNOUNCE,
            keys.FLEET,
            state.worker_id,
            lease_ms,
            self._encode(state),
            card.digest,
            self._encode(card),
            KEEP_MS,
            state.queue,
            *digests,
        )
        return [digest.decode() for digest in missing]

    async def withdraw(self, worker_id: str) -> None:
        """Be gone at once."""
        async with reaching(self._redis):
            # In this order: a lease without a state ends by itself.
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hdel(keys.fleet_states(), worker_id)
            pipeline.zrem(keys.fleet_leases(), worker_id)
            await pipeline.execute()

    async def fleet(self) -> Fleet:
        """Everything that is alive now. One small call as long as the cards are known."""
        rows: list[bytes] = await run_script(self._redis, Script.FLEET, keys.FLEET)
        workers: dict[str, list[WorkerState]] = {}
        for row in rows:
            try:
                state = self._decode_state(row)
            except msgspec.DecodeError as error:
                log.warning("undecodable worker state", extra={"error": str(error)})
                continue
            workers.setdefault(state.card_digest, []).append(state)
        await self._learn([digest for digest in workers if digest not in self._cards])
        self._cards = {digest: card for digest, card in self._cards.items() if digest in workers}
        models = [
            LiveModel(card, sorted(workers[digest], key=lambda worker: worker.worker_id))
            for digest, card in self._cards.items()
        ]
        return Fleet(sorted(models, key=lambda model: (model.card.name, model.card.digest)))

    async def queues(self) -> list[str]:
        """Every queue that a worker has announced within the last day, oldest first."""
        rows: list[bytes] = await run_script(self._redis, Script.QUEUES, keys.FLEET)
        return [row.decode() for row in rows]

    async def card(self, digest: str) -> ModelCard | None:
        """A card that was announced within the last day, by its digest; None when it is not known."""
        async with reaching(self._redis):
            data = await self._redis.get(keys.card(digest))
        try:
            return None if data is None else self._decode_card(data)
        except msgspec.DecodeError as error:
            log.warning("undecodable model card", extra={"digest": digest, "error": str(error)})
            return None

    async def _learn(self, digests: list[str]) -> None:
        if not digests:
            return
        async with reaching(self._redis):
            cards = await self._redis.mget([keys.card(digest) for digest in digests])
        for digest, data in zip(digests, cards, strict=True):
            try:
                if data is not None:
                    self._cards[digest] = self._decode_card(data)
            except msgspec.DecodeError as error:
                log.warning("undecodable model card", extra={"digest": digest, "error": str(error)})
