"""How many workers a backlog asks for."""

from types import SimpleNamespace
from typing import Any

import pytest

from headrace_api.scale import desired_workers
from headrace_shared.queue.status import Backlog


@pytest.mark.parametrize(
    ("queued", "tokens", "running", "rate", "workers", "slots", "desired"),
    [
        (0, 0, 0, None, 1, 8, 0),
        (0, 0, 1, 100.0, 1, 8, 1),
        (0, 0, 9, 100.0, 2, 16, 2),  # 9 of 16 places are taken: two workers of 8 are needed
        (5, 3000, 0, 100.0, 1, 8, 1),  # 3,000 tokens at 100 a second take the 30 seconds
        (5, 3001, 0, 100.0, 1, 8, 2),
        (5, 6000, 16, 200.0, 2, 16, 4),  # two to go on, two for 6,000 tokens at 100 a second each
        (1, 1, 0, None, 3, 24, 4),
        (1, 1, 0, None, 0, 0, 1),
        (0, 0, 3, 100.0, 1, 0, 3),  # a worker that does not say how much it runs at once
    ],
)
def test_workers_for_what_runs_and_for_what_waits(
    queued: int, tokens: int, running: int, rate: float | None, workers: int, slots: int, desired: int
) -> None:
    listed: Any = SimpleNamespace(workers=[None] * workers, slots=slots)
    assert desired_workers(Backlog(queued, tokens, running, 0, rate), listed, 30.0) == desired
