"""Which workers are alive, what they serve, and the blobs that come with it."""

import asyncio

import msgspec
import pytest
from redis.asyncio import Redis

from headrace_shared.model_card import ModelCard
from headrace_shared.queue import keys
from headrace_shared.queue.blobs import KEEP_MS, BlobStore
from headrace_shared.queue.presence import Presence, WorkerState


def card_of(name: str, tokenizer: str = "t" * 64, **fields: object) -> ModelCard:
    return ModelCard(name=name, max_model_len=100, vocab_size=10, tokenizer=tokenizer, **fields)  # type: ignore[arg-type]


def state_of(worker_id: str, card: ModelCard, **fields: object) -> WorkerState:
    return WorkerState(worker_id=worker_id, queue=card.queue, card_digest=card.digest, **fields)  # type: ignore[arg-type]


@pytest.fixture
def presence(redis: Redis) -> Presence:
    return Presence(redis)


async def test_workers_of_one_card_are_one_model(presence: Presence) -> None:
    card, other = card_of("b", aliases=("x", "y")), card_of("a")
    for worker_id in ("w2", "w1"):
        await presence.announce(card, state_of(worker_id, card, state="ready", kv_blocks_free=7), 5000)
    await presence.announce(other, state_of("w3", other), 5000)
    fleet = await presence.fleet()
    assert [(m.card, [w.worker_id for w in m.workers]) for m in fleet.models] == [(other, ["w3"]), (card, ["w1", "w2"])]
    assert fleet.models[1].workers[0] == state_of("w1", card, state="ready", kv_blocks_free=7)


async def test_two_cards_that_claim_one_name_are_both_seen(presence: Presence) -> None:
    one, two = card_of("m"), card_of("m", dtype="float16")
    for worker_id, card in (("w1", one), ("w2", two)):
        await presence.announce(card, state_of(worker_id, card), 5000)
    assert {m.card.digest for m in (await presence.fleet()).models} == {one.digest, two.digest}
    assert one.queue != two.queue


async def test_a_worker_that_falls_silent_is_gone_when_its_lease_ends(presence: Presence, redis: Redis) -> None:
    card = card_of("m")
    await presence.announce(card, state_of("alive", card), 5000)
    await presence.announce(card, state_of("dead", card), 300)
    assert len((await presence.fleet()).models[0].workers) == 2
    await asyncio.sleep(0.32)
    assert [w.worker_id for w in (await presence.fleet()).models[0].workers] == ["alive"]
    assert await redis.hlen(keys.fleet_states()) == 1  # type: ignore[misc]


async def test_an_announcement_replaces_the_one_before(presence: Presence) -> None:
    card = card_of("m")
    await presence.announce(card, state_of("w", card, state="ready"), 5000)
    await presence.announce(card, state_of("w", card, state="draining"), 5000)
    [model] = (await presence.fleet()).models
    assert [w.state for w in model.workers] == ["draining"]


async def test_a_worker_that_withdraws_is_gone_at_once(presence: Presence) -> None:
    card = card_of("m")
    await presence.announce(card, state_of("w", card), 5000)
    await presence.withdraw("w")
    await presence.withdraw("w")
    assert (await presence.fleet()).models == []


async def test_a_queue_is_remembered_for_a_day_after_its_last_worker(presence: Presence, redis: Redis) -> None:
    old, new = card_of("old"), card_of("new")
    assert await presence.queues() == []
    for card in (old, new, old):
        await presence.announce(card, state_of(card.name, card), 5000)
    await presence.withdraw("old")
    assert set(await presence.queues()) == {old.queue, new.queue}
    assert KEEP_MS - 10_000 < await redis.pttl(f"{keys.FLEET}queues") <= KEEP_MS
    await redis.zadd(f"{keys.FLEET}queues", {old.queue: 1})  # as if a day had passed
    assert await presence.queues() == [new.queue]


async def test_known_cards_are_not_fetched_again(presence: Presence, redis: Redis) -> None:
    card = card_of("m")
    await presence.announce(card, state_of("w", card), 5000)
    first = await presence.fleet()
    await redis.delete(keys.card(card.digest))
    assert await presence.fleet() == first


async def test_states_from_a_newer_and_a_broken_worker_do_not_hide_the_others(presence: Presence, redis: Redis) -> None:
    card = card_of("m")
    await presence.announce(card, state_of("w", card), 5000)
    newer = msgspec.to_builtins(state_of("newer", card)) | {"field_of_the_future": 1}
    states = {"newer": msgspec.msgpack.encode(newer), "broken": b"\xc1"}
    await redis.hset(keys.fleet_states(), mapping=states)  # type: ignore[misc]
    [model] = (await presence.fleet()).models
    assert [w.worker_id for w in model.workers] == ["newer", "w"]


async def test_blobs_are_named_by_their_content(redis: Redis) -> None:
    blobs = BlobStore(redis)
    digest = await blobs.put(b"tokenizer" * 1000)
    assert await blobs.put(b"tokenizer" * 1000) == digest
    assert await blobs.put(b"other") != digest
    assert await blobs.get(digest) == b"tokenizer" * 1000
    assert await blobs.get("0" * 64) is None
    await redis.set(keys.blob(digest), b"tampered with")
    assert await blobs.get(digest) is None


async def test_announcing_keeps_blobs_alive_and_names_the_missing_ones(presence: Presence, redis: Redis) -> None:
    blobs = BlobStore(redis)
    tokenizer, template = await blobs.put(b"tokenizer"), await blobs.put(b"template")
    card = card_of("m", tokenizer=tokenizer, chat_template=template)
    await redis.pexpire(keys.blob(tokenizer), 1000)
    assert await presence.announce(card, state_of("w", card), 5000) == []
    assert await redis.pttl(keys.blob(tokenizer)) > KEEP_MS - 10_000
    await redis.delete(keys.blob(template))
    assert await presence.announce(card, state_of("w", card), 5000) == [template]
    assert not await blobs.refresh(template)
    assert await blobs.refresh(tokenizer)


async def test_a_tokenizer_of_many_megabytes_fits(redis: Redis) -> None:
    blobs = BlobStore(redis)
    data = bytes(range(256)) * (20 << 12)
    assert await blobs.get(await blobs.put(data)) == data


async def test_a_fleet_tells_what_is_left_of_each_lease(presence: Presence) -> None:
    card = card_of("m")
    for worker_id, lease_ms in (("short", 2000), ("long", 60_000)):
        await presence.announce(card, state_of(worker_id, card), lease_ms)
    [model] = (await presence.fleet()).models
    assert 0 < model.leases_ms["short"] <= 2000 < 50_000 < model.leases_ms["long"] <= 60_000
