"""The outbox: what is under way holds up nothing but its own requests, and silence is asked about."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from queue_traffic import FINISHED, make_job, positions, token

from headrace_shared.queue.claims import Appended, AppendStatus, Claim, FrameOut
from headrace_worker.service.outbox import Outbox


class Log:
    """A queue whose calls are answered by the test, each when it likes."""

    def __init__(self) -> None:
        self.calls: list[tuple[Sequence[FrameOut], asyncio.Future[list[Appended]]]] = []

    async def append(self, frames: Sequence[FrameOut]) -> list[Appended]:
        answer: asyncio.Future[list[Appended]] = asyncio.get_running_loop().create_future()
        self.calls.append((frames, answer))
        return await answer

    def said(self, call: int) -> dict[str, tuple[int, list[int]]]:
        """Per request, number and tokens of its frame in that call."""
        return {frame.request_id: (frame.seq, positions(frame.events)) for frame in self.calls[call][0]}

    async def accept(self, call: int, receivers: int = 1) -> None:
        frames, answer = self.calls[call]
        answer.set_result([Appended(AppendStatus.OK, frame.seq, receivers) for frame in frames])
        await settle()


class Setup:
    def __init__(self, log: Log) -> None:
        self.log = log
        self.unheard: list[str] = []
        queue: Any = log
        self.outbox = Outbox(queue, lambda *_: None, self.unheard.append, orphan_grace_s=0.0)

    def open(self, *request_ids: str, detached: bool = False) -> None:
        for request_id in request_ids:
            job = make_job(request_id, detached=detached)
            self.outbox.open(Claim(request_id, 1, 0, 1, 0, 0, 0, job, []))

    async def put(self, position: int, *request_ids: str) -> None:
        for request_id in request_ids:
            self.outbox.put(request_id, [token(position)])
        await settle()


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    setup = Setup(Log())
    running = asyncio.create_task(setup.outbox.run())
    yield setup
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_requests_do_not_wait_for_others_whose_frames_are_under_way(setup: Setup) -> None:
    setup.open("a", "b")
    await setup.put(0, "a")
    await setup.put(0, "b")
    assert [setup.log.said(call) for call in (0, 1)] == [{"a": (1, [0])}, {"b": (1, [0])}]


async def test_what_comes_while_a_requests_frame_is_under_way_is_merged_into_its_next(setup: Setup) -> None:
    setup.open("a", "b")
    await setup.put(0, "a", "b")
    await setup.put(1, "a")
    await setup.put(2, "a")
    assert len(setup.log.calls) == 1
    await setup.log.accept(0)
    assert setup.log.said(1) == {"a": (2, [1, 2])}


async def test_more_calls_than_may_be_under_way_become_one_larger_call(setup: Setup) -> None:
    names = [f"r{n}" for n in range(9)]
    setup.open(*names)
    for name in names:
        await setup.put(0, name)
    assert [len(frames) for frames, _ in setup.log.calls] == [1] * 4
    await setup.log.accept(2)
    assert sorted(setup.log.said(4)) == names[4:]


async def test_it_is_drained_when_every_call_was_answered(setup: Setup) -> None:
    setup.open("a", "b")
    await setup.put(0, "a")
    setup.outbox.end("b", FINISHED, used_tokens=4)
    await settle()
    drained = asyncio.create_task(setup.outbox.drained())
    await setup.log.accept(1)
    assert not drained.done()
    await setup.log.accept(0)
    assert drained.done()


async def test_only_the_silent_that_need_a_listener_are_asked_about(setup: Setup) -> None:
    setup.open("silent", "speaks")
    setup.open("alone", detached=True)
    await setup.put(0, "speaks")
    await setup.log.accept(0)
    assert setup.outbox.silent() == ["silent"]
    assert setup.outbox.silent() == ["silent", "speaks"]


async def test_silence_without_a_listener_starts_the_clock_that_frames_start(setup: Setup) -> None:
    setup.open("a", "b", "c")
    await setup.put(0, "a")
    await setup.log.accept(0, receivers=0)
    setup.outbox.hear({"a": 0, "b": 0, "c": 1})
    assert setup.unheard == ["a"]
    setup.outbox.hear({"b": 1, "c": 0})
    assert setup.unheard == ["a"]
    setup.outbox.hear({"b": 0, "c": 0})
    assert setup.unheard == ["a", "c"]
    setup.outbox.forgive_silence()
    setup.outbox.hear({"b": 0, "c": 0})
    assert setup.unheard == ["a", "c"]
