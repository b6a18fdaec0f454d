"""A short run of the fault campaign, with the same faults in the same order every time."""

from pathlib import Path

import pytest
from campaign import run_campaign


@pytest.mark.slow
def test_no_client_loses_or_gets_twice_a_token_while_processes_are_killed_at_random(tmp_path: Path) -> None:
    # A seed that draws all nine kinds of faults early.
    report = run_campaign(tmp_path / "valkey", seed=1158, kills=7, users=24)
    assert report.kills == 7
    assert len(report.done) == 9
    assert report.tally.answers > 50
    assert not report.tally.complaints, report.tally.complaints[:3]
