"""Batches in Redis: one owner at a time, and results that count once."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from headrace_shared.clock import wall_s
from headrace_shared.errors import InvalidRequestError, NotFoundError
from headrace_shared.queue.batch_book import BatchBook, BatchSpec, BatchStatus, BatchUsage, LostBatchError, Segment
from headrace_shared.queue.file_book import FileBook, FileRecord
from headrace_shared.queue.pages import Page
from headrace_shared.queue.webhook_book import DueWebhook, WebhookBook, WebhookOutcome

LEASE_MS = 60_000


@pytest.fixture
def files(redis: Redis) -> FileBook:
    return FileBook(redis)


@pytest.fixture
def book(redis: Redis) -> BatchBook:
    return BatchBook(redis)


def a_file(file_id: str = "file-1", owner: str = "ann", size: int = 10) -> FileRecord:
    now_s = wall_s()
    return FileRecord(file_id, owner, "in.jsonl", "batch", size, now_s, now_s + 3600)


def a_batch(batch_id: str = "batch_1", owner: str = "ann", **fields: Any) -> BatchSpec:
    now_s = wall_s()
    return BatchSpec(
        id=batch_id,
        owner=owner,
        tenant=owner,
        endpoint="/v1/completions",
        input_file_id="file-1",
        completion_window="24h",
        created_at=now_s,
        expires_at=now_s + 86_400,
        priority=100,
        late_priority=1,
        **fields,
    )


def a_segment(name: str, lines: Sequence[int], failed: int = 0) -> Segment:
    return Segment(name, {"output": f"path/{name}"}, lines, len(lines) - failed, failed, BatchUsage(1, 2, 3, 4))


async def begun(files: FileBook, book: BatchBook, spec: BatchSpec | None = None, items: int = 10) -> int:
    """A batch that is in progress; its owner's epoch."""
    spec = spec or a_batch()
    await files.add(a_file())
    await book.create(spec)
    epoch = await book.take(spec.id, "w1", LEASE_MS)
    assert epoch is not None
    assert await book.admit(spec, epoch, items, 100, "tiny") is None
    return epoch


async def test_a_batch_has_one_owner_at_a_time(files: FileBook, book: BatchBook) -> None:
    await files.add(a_file())
    await book.create(a_batch())
    taken = await asyncio.gather(*(book.take("batch_1", f"w{n}", LEASE_MS) for n in range(5)))
    assert sum(epoch is not None for epoch in taken) == 1
    assert await book.waiting(10) == []


async def test_whoever_takes_over_shuts_the_former_owner_out(files: FileBook, book: BatchBook) -> None:
    zombie = await begun(files, book)
    await book.renew("batch_1", zombie, 1)
    await asyncio.sleep(0.01)
    assert await book.waiting(10) == ["batch_1"]
    epoch = await book.take("batch_1", "w2", LEASE_MS)
    assert epoch is not None
    assert epoch > zombie
    for call in (
        book.renew("batch_1", zombie, LEASE_MS),
        book.record("batch_1", zombie, a_segment("z", [0])),
        book.admit(a_batch(), zombie, 10, 100, "tiny"),
    ):
        with pytest.raises(LostBatchError):
            await call
    assert not await book.move("batch_1", zombie, BatchStatus.FINALIZING)
    state = await book.get("batch_1", "ann")
    assert (state.status, state.completed) == (BatchStatus.IN_PROGRESS, 0)
    assert await book.record("batch_1", epoch, a_segment("y", [0]))


async def test_an_owner_that_was_late_but_not_replaced_goes_on(files: FileBook, book: BatchBook) -> None:
    epoch = await begun(files, book)
    await book.renew("batch_1", epoch, 1)
    await asyncio.sleep(0.01)
    assert await book.renew("batch_1", epoch, LEASE_MS) is BatchStatus.IN_PROGRESS
    assert await book.take("batch_1", "w2", LEASE_MS) is None


async def test_a_segment_counts_once_however_often_it_is_recorded(files: FileBook, book: BatchBook) -> None:
    epoch = await begun(files, book)
    for _ in range(3):
        assert await book.record("batch_1", epoch, a_segment("a", [0, 9, 4], failed=1))
    state = await book.get("batch_1", "ann")
    assert (state.total, state.completed, state.failed, state.usage) == (10, 2, 1, BatchUsage(1, 2, 3, 4))
    assert await book.done_lines("batch_1") == bytes([0b10001000, 0b01000000])
    assert await book.segments("batch_1") == [{"output": "path/a"}]


async def test_a_line_that_is_done_is_not_done_again(files: FileBook, book: BatchBook) -> None:
    epoch = await begun(files, book)
    assert await book.record("batch_1", epoch, a_segment("a", [1, 2]))
    assert not await book.record("batch_1", epoch, a_segment("b", [0, 2]))
    assert (await book.get("batch_1", "ann")).completed == 2
    assert await book.done_lines("batch_1") == bytes([0b01100000])
    assert len(await book.segments("batch_1")) == 1


async def test_statuses_follow_each_other_and_nothing_follows_the_last(files: FileBook, book: BatchBook) -> None:
    epoch = await begun(files, book)
    assert not await book.move("batch_1", epoch, BatchStatus.COMPLETED, ttl_s=60)
    assert await book.move("batch_1", epoch, BatchStatus.FINALIZING, {"ending": BatchStatus.COMPLETED})
    assert not await book.move("batch_1", None, BatchStatus.CANCELLING)
    for _ in range(2):
        assert await book.move("batch_1", epoch, BatchStatus.COMPLETED, {"output": "file-9"}, ttl_s=60)
    state = await book.get("batch_1", "ann")
    assert (state.status, state.output_file_id) == (BatchStatus.COMPLETED, "file-9")
    assert set(state.times) == {BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, BatchStatus.COMPLETED}
    with pytest.raises(LostBatchError):
        await book.renew("batch_1", epoch, LEASE_MS)
    with pytest.raises(LostBatchError):
        await book.record("batch_1", epoch, a_segment("a", [0]))
    assert await book.take("batch_1", "w2", LEASE_MS) is None
    assert (await book.waiting(9), await book.open_count()) == ([], 0)
    assert await files.remove("file-1")


async def test_a_cancelled_batch_is_not_finalized(files: FileBook, book: BatchBook) -> None:
    epoch = await begun(files, book)
    assert await book.move("batch_1", None, BatchStatus.CANCELLING)
    assert await book.renew("batch_1", epoch, LEASE_MS) is BatchStatus.CANCELLING
    assert not await book.move("batch_1", epoch, BatchStatus.FINALIZING)
    assert await book.record("batch_1", epoch, a_segment("a", [0]))
    assert await book.move("batch_1", epoch, BatchStatus.CANCELLED, ttl_s=60)


async def test_an_input_stays_while_a_batch_reads_it(files: FileBook, book: BatchBook) -> None:
    epoch = await begun(files, book)
    with pytest.raises(InvalidRequestError):
        await files.remove("file-1")
    assert await book.move("batch_1", epoch, BatchStatus.FAILED, ttl_s=60)
    assert await files.remove("file-1")
    assert not await files.remove("file-1")
    with pytest.raises(NotFoundError):
        await book.create(a_batch("batch_2"))


async def test_quotas_hold_for_all_open_batches_of_an_owner(files: FileBook, book: BatchBook) -> None:
    epoch = await begun(files, book, a_batch(most_items=15, most_tokens=150))
    for batch_id, items, tokens, what in (("b", 6, 0, "items"), ("c", 5, 51, "tokens")):
        spec = a_batch(batch_id, most_items=15, most_tokens=150)
        await book.create(spec)
        its = await book.take(batch_id, "w", LEASE_MS)
        assert its is not None
        assert await book.admit(spec, its, items, tokens, "tiny") == what
        assert await book.admit(spec, its, 5, 50, "tiny") is None
        assert await book.move(batch_id, its, BatchStatus.FAILED, ttl_s=60)
    assert await book.move("batch_1", epoch, BatchStatus.FAILED, ttl_s=60)
    spec = a_batch("d", most_items=15, most_tokens=150)
    await book.create(spec)
    its = await book.take("d", "w", LEASE_MS)
    assert its is not None
    assert await book.admit(spec, its, 15, 150, "tiny") is None


async def test_a_batch_that_was_waiting_longest_is_first(files: FileBook, book: BatchBook) -> None:
    await files.add(a_file())
    for batch_id in ("z", "a"):
        await book.create(a_batch(batch_id))
        await asyncio.sleep(1.01)
    epoch = await book.take("z", "w", LEASE_MS)
    assert epoch is not None
    await book.renew("z", epoch, 0)
    assert await book.waiting(9) == ["a", "z"]


async def test_lists_are_ones_own_in_pages(files: FileBook, book: BatchBook) -> None:
    await files.add(a_file())
    for n in range(5):
        await book.create(a_batch(f"b{n}"))
        await asyncio.sleep(0.002)
    await book.create(a_batch("hers", owner="eve"))

    async def ids(limit: int, after: str | None = None, *, newest_first: bool = True) -> tuple[list[str], bool]:
        states, more = await book.listed("ann", Page(limit, after, newest_first))
        return [state.spec.id for state in states], more

    assert await ids(2) == (["b4", "b3"], True)
    assert await ids(3, "b3") == (["b2", "b1", "b0"], False)
    assert await ids(2, "b0", newest_first=False) == (["b1", "b2"], True)
    with pytest.raises(InvalidRequestError):
        await ids(2, "hers")


async def test_bytes_that_nothing_refers_to_are_found(files: FileBook) -> None:
    await files.begin("file-1")
    assert await files.rubbish(9) == []
    await files.add(a_file())
    await files.remove("file-1")
    assert await files.rubbish(9) == ["files/file-1"]
    await files.thrown_away("files/file-1")
    assert await files.rubbish(9) == []


async def test_an_overview_has_the_newest_and_whatever_is_not_done(files: FileBook, book: BatchBook) -> None:
    await files.add(a_file())
    for n in range(4):
        await book.create(a_batch(f"b{n}"))
        epoch = await book.take(f"b{n}", "w", LEASE_MS)
        if n != 0:
            assert await book.move(f"b{n}", epoch, BatchStatus.FAILED, ttl_s=60)
        await asyncio.sleep(0.002)
    await book.create(a_batch("hers", owner="eve"))

    async def ids(owner: str | None, limit: int) -> list[str]:
        return [state.spec.id for state in await book.overview(owner, limit)]

    assert await ids("ann", 2) == ["b3", "b2", "b0"]
    assert await ids("eve", 2) == ["hers"]
    assert await ids(None, 2) == ["hers", "b3", "b0"]
    assert await ids("nobody", 2) == []


@pytest.fixture
def webhooks(redis: Redis) -> WebhookBook:
    return WebhookBook(redis)


HOOK = {"webhook_url": "https://hooks.example.com/"}


async def test_the_end_of_a_batch_is_to_be_told_from_the_moment_it_has_ended(
    files: FileBook, book: BatchBook, webhooks: WebhookBook
) -> None:
    epoch = await begun(files, book, a_batch(**HOOK))
    assert await webhooks.take(10, LEASE_MS) == []
    for _ in range(2):
        assert await book.move("batch_1", epoch, BatchStatus.FAILED, ttl_s=60)
    assert await webhooks.take(10, 20) == [DueWebhook("batch_1", 1)]
    assert await webhooks.take(10, 20) == []
    await asyncio.sleep(0.03)
    assert await webhooks.take(10, LEASE_MS) == [DueWebhook("batch_1", 2)]
    await webhooks.note("batch_1", WebhookOutcome.FAILED, "HTTP 500", 20)
    assert await webhooks.take(10, LEASE_MS) == []
    await asyncio.sleep(0.03)
    assert await webhooks.take(10, 20) == [DueWebhook("batch_1", 3)]
    await webhooks.note("batch_1", WebhookOutcome.DELIVERED)
    # Somebody whose lease was over comes late.
    await webhooks.note("batch_1", WebhookOutcome.GIVEN_UP, "HTTP 500")
    await asyncio.sleep(0.03)
    assert await webhooks.take(10, LEASE_MS) == []
    state = (await book.get("batch_1", "ann")).webhook
    assert state is not None
    assert (state.status, state.attempts, state.error) == ("delivered", 3, None)
    totals = await book.totals()
    assert {name: totals.get(f"{name}_webhooks", 0) for name in WebhookOutcome} == {
        "delivered": 1,
        "failed": 1,
        "given_up": 0,
    }


async def test_nobody_is_told_the_end_of_a_batch_that_names_nobody(
    files: FileBook, book: BatchBook, webhooks: WebhookBook
) -> None:
    epoch = await begun(files, book)
    assert await book.move("batch_1", epoch, BatchStatus.FAILED, ttl_s=60)
    assert await webhooks.take(10, LEASE_MS) == []
    assert (await book.get("batch_1", "ann")).webhook is None


async def test_a_batch_that_is_no_longer_kept_is_not_told_and_does_not_come_back(
    files: FileBook, book: BatchBook, webhooks: WebhookBook
) -> None:
    for batch_id in ("batch_1", "batch_2"):
        epoch = await begun(files, book, a_batch(batch_id, **HOOK))
        assert await book.move(batch_id, epoch, BatchStatus.FAILED, ttl_s=1)
    assert len(await webhooks.take(1, LEASE_MS)) == 1
    await asyncio.sleep(1.1)
    for batch_id in ("batch_1", "batch_2"):
        await webhooks.note(batch_id, WebhookOutcome.FAILED, "HTTP 500", 0)
    assert await webhooks.take(10, LEASE_MS) == []
    assert await book.find("batch_1") is None
    assert await book.find("batch_2") is None
