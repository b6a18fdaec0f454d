"""What an item is asked with: always the same id, ever more urgent."""

from headrace_api.batches.feed import Order
from headrace_shared.clock import wall_s
from headrace_shared.queue.batch_book import BatchSpec


def order(age_s: int, left_s: int, priority: int = 100, late: int = 1) -> Order:
    now_s = wall_s()
    spec = BatchSpec(
        id="batch_1",
        owner="",
        tenant="-",
        endpoint="/v1/completions",
        input_file_id="file-1",
        completion_window="24h",
        created_at=now_s - age_s,
        expires_at=now_s + left_s,
        priority=priority,
        late_priority=late,
    )
    return Order(spec, now_s)


def test_items_become_urgent_in_the_last_quarter_of_their_time() -> None:
    assert order(0, 10_000).priority() == 100
    assert order(7_000, 3_000).priority() == 100
    assert 49 <= order(8_750, 1_250).priority() <= 52
    assert 20 <= order(9_500, 500).priority() <= 22
    assert order(10_000, 0).priority() == 1
    assert order(20_000, -500).priority() == 1


def test_a_client_that_may_not_be_urgent_is_not_so_at_the_end_either() -> None:
    assert order(9_999, 1, priority=100, late=60).priority() == 60


def test_an_id_says_which_item_it_is_and_which_try() -> None:
    asked = order(0, 10)
    assert [asked.request_id(0), asked.request_id(6), asked.request_id(6, 2)] == [
        "batch_1-1",
        "batch_1-7",
        "batch_1-7.2",
    ]
