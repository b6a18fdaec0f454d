"""Tallies: whatever they are told, and whenever they are settled, what is shown is what the instruments would show."""

import threading
from collections.abc import Callable
from random import Random

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, Summary, generate_latest

from headrace_shared.telemetry.series import Counted, Instruments, Spread, Totalled

BUCKETS = (0.1, 1, 2, 5)


class Some(Instruments):
    calls = Counted("headrace:calls", "Calls.")
    calls_by_who = Counted("headrace:calls_by_who", "Calls.", ("who", "how"))
    bytes = Totalled("headrace:size_bytes", "Bytes.")
    bytes_by_who = Totalled("headrace:size_by_who_bytes", "Bytes.", ("who", "how"))
    took = Spread("headrace:took_seconds", "Took.", buckets=BUCKETS)
    took_by_who = Spread("headrace:took_by_who_seconds", "Took.", ("who", "how"), buckets=BUCKETS)


class Plain:
    """The same in prometheus-client's own instruments."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("who", "how")
        self.calls = Counter("headrace:calls", "Calls.", registry=registry)
        self.calls_by_who = Counter("headrace:calls_by_who", "Calls.", labels, registry=registry)
        self.bytes = Summary("headrace:size_bytes", "Bytes.", registry=registry)
        self.bytes_by_who = Summary("headrace:size_by_who_bytes", "Bytes.", labels, registry=registry)
        self.took = Histogram("headrace:took_seconds", "Took.", buckets=BUCKETS, registry=registry)
        self.took_by_who = Histogram(
            "headrace:took_by_who_seconds", "Took.", labels, buckets=BUCKETS, registry=registry
        )


def shown(registry: CollectorRegistry) -> list[str]:
    """All of the text, but for the moments at which the instruments were made."""
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


def tell(some: Some | Plain, random: Random) -> None:
    # Multiples of a quarter, whose sums are exact in any order; some of them are edges of buckets.
    value = random.randrange(28) / 4
    who = (random.choice("abc"), random.choice("xy"))
    told: list[Callable[[], None]] = [
        lambda: some.calls.inc(),
        lambda: some.calls_by_who.labels(*who).inc(value),
        lambda: some.bytes.observe(value),
        lambda: some.bytes_by_who.labels(*who).observe(value),
        lambda: some.took.observe(value),
        lambda: some.took_by_who.labels(*who).observe(value),
    ]
    random.choice(told)()


@pytest.mark.parametrize("settled_every", [1, 7, 1000])
def test_what_is_shown_is_what_the_instruments_would_show(settled_every: int) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    some, plain = Some(ours), Plain(theirs)
    for number in range(1, 1001):
        tell(some, Random(number))
        tell(plain, Random(number))
        if number % settled_every == 0:
            some.settle()
    some.settle()
    assert shown(ours) == shown(theirs)
    assert some.calls_by_who.total == sum(
        sample.value for family in plain.calls_by_who.collect() for sample in family.samples if "_total" in sample.name
    )


def test_labels_are_shown_before_anything_is_counted() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    for some in (Some(ours), Plain(theirs)):
        some.calls_by_who.labels("a", "x")
        some.took_by_who.labels("a", "x")
        some.bytes_by_who.labels("a", "x").observe(0)
        if isinstance(some, Some):
            some.settle()
    assert shown(ours) == shown(theirs)
    assert 'headrace:calls_by_who_total{how="x",who="a"} 0.0' in shown(ours)
    assert 'headrace:size_by_who_bytes_count{how="x",who="a"} 1.0' in shown(ours)


def test_nothing_is_lost_or_counted_twice_while_other_threads_settle() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    some, plain = Some(ours), Plain(theirs)
    over = threading.Event()

    def settle() -> None:
        while not over.is_set():
            some.settle()

    threads = [threading.Thread(target=settle) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(5000):
        tell(some, Random(number))
    over.set()
    for thread in threads:
        thread.join()
    some.settle()
    for number in range(5000):
        tell(plain, Random(number))
    assert shown(ours) == shown(theirs)
