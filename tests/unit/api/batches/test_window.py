"""The window's places, and whose turn it is."""

import asyncio
from collections import Counter

from headrace_api.batches.window import Window


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_no_more_are_inside_than_there_are_places() -> None:
    window, inside, most = Window(3), 0, 0

    async def visit(batch: int) -> None:
        nonlocal inside, most
        await window.enter("-", str(batch % 4))
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)
        inside -= 1
        window.leave()

    await asyncio.gather(*(visit(n) for n in range(50)))
    assert (most, inside) == (3, 0)


async def test_tenants_take_turns_and_so_do_the_batches_of_one() -> None:
    window = Window(1)
    await window.enter("first", "x")
    order: list[tuple[str, str]] = []

    async def visit(tenant: str, batch: str) -> None:
        await window.enter(tenant, batch)
        order.append((tenant, batch))
        window.leave()

    wanted = [("ann", "a1")] * 8 + [("ann", "a2")] * 4 + [("bob", "b")] * 12
    visits = [asyncio.create_task(visit(*each)) for each in wanted]
    await settle()
    window.leave()
    await asyncio.gather(*visits)
    assert Counter(tenant for tenant, _ in order[:16]) == {"ann": 8, "bob": 8}
    assert Counter(order[:16])["ann", "a1"] == Counter(order[:16])["ann", "a2"] == 4


async def test_a_place_of_one_that_was_cancelled_is_not_lost() -> None:
    window = Window(1)
    await window.enter("-", "a")
    for _ in range(3):
        waiting = asyncio.create_task(window.enter("-", "b"))
        await settle()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    given = asyncio.create_task(window.enter("-", "c"))
    await settle()
    window.leave()
    await asyncio.sleep(0)  # it is given the place,
    given.cancel()  # which it never takes
    await asyncio.gather(given, return_exceptions=True)
    async with asyncio.timeout(1):
        await window.enter("-", "d")


async def test_places_that_come_back_together_are_shared_too() -> None:
    window, entered = Window(8), Counter[str]()
    for _ in range(8):
        await window.enter("-", "before")

    async def feed(batch: str) -> None:
        while True:
            await window.enter("-", batch)
            entered[batch] += 1

    feeds = [asyncio.create_task(feed(batch)) for batch in "ab"]
    await settle()
    for _ in range(5):
        for _ in range(8):
            window.leave()
        for _ in range(8):
            await settle()
    assert entered == {"a": 20, "b": 20}
    for each in feeds:
        each.cancel()
    await asyncio.gather(*feeds, return_exceptions=True)
