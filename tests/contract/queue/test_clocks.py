"""The clocks of API nodes and workers may be wrong, differ and jump: only Redis' own clock is compared."""

import itertools
import time

import pytest
from queue_traffic import QUEUE, MakeWorker, ending, make_job, positions, serve

from headrace_shared.protocol.event import Finished
from headrace_shared.queue.hub import StreamHub
from headrace_shared.queue.requests import RequestQueue

ALL = 10**9
HOUR_S = 3600.0


@pytest.fixture
def jumping_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the host's clock finds it an hour behind, or ahead of, the last one."""
    now_s, now_ns, jumps = time.time, time.time_ns, itertools.cycle([HOUR_S, -HOUR_S, 0.0])
    monkeypatch.setattr(time, "time", lambda: now_s() + next(jumps))
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + int(next(jumps) * 1e9))


@pytest.mark.usefixtures("jumping_clock")
async def test_jumps_of_the_hosts_clock_change_neither_deadlines_nor_leases(
    requests: RequestQueue, make_worker: MakeWorker, hub: StreamHub
) -> None:
    worker, other = make_worker("w", lease_ms=3000), make_worker("other", lease_ms=3000)
    streams = [await hub.open(QUEUE, f"r{n}") for n in range(12)]
    for n in range(12):
        await requests.enqueue(make_job(f"r{n}"), timeout_ms=5000)
    for claim in await worker.claim(12, ALL):
        assert await other.reap() == 0
        await serve(worker, claim, tokens=5)
    for stream in streams:
        events = [event async for frame in stream for event in frame]
        assert positions(events) == [0, 1, 2, 3, 4]
        assert isinstance(ending(events), Finished)


@pytest.mark.usefixtures("jumping_clock")
async def test_epochs_grow_whatever_the_hosts_clocks_say(requests: RequestQueue, make_worker: MakeWorker) -> None:
    await requests.enqueue(make_job("r"))
    epochs = []
    for name in ("a", "b", "c"):
        worker = make_worker(name)
        [claim] = await worker.claim(1, ALL)
        epochs.append(claim.epoch)
        await worker.release()
    assert epochs == sorted(set(epochs))
