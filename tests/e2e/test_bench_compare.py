"""``headrace bench compare`` on two whole systems, one twice as fast as the other."""

import json
import subprocess
import sys
from pathlib import Path

from fleet import fleet_on

from headrace_cli.embedded_redis import EmbeddedRedis

HEADRACE = Path(sys.executable).parent / "headrace"


def test_a_system_that_is_twice_as_fast_is_found_to_be(
    valkey_url: str, own_valkey: EmbeddedRedis, tmp_path: Path
) -> None:
    with fleet_on(valkey_url) as slow, fleet_on(own_valkey.url) as fast:
        slow.worker(simulated_step_ms=80)
        fast.worker(simulated_step_ms=40)
        apis = [slow.api(), fast.api()]
        for api in apis:
            api.wait_until_ready()
        command = [HEADRACE, "bench", "compare", *(api.url for api in apis), "--load", "16:12", "-c", "2", "-n", "4"]
        done = subprocess.run(
            [*command, "--pairs", "3", "--json", tmp_path / "f.json"], capture_output=True, text=True, timeout=90
        )
    assert done.returncode == 0, done.stdout + done.stderr
    (load,) = json.loads((tmp_path / "f.json").read_text())["loads"]
    ratios = {row["metric"]: row["ratio"] for row in load["metrics"]}
    assert 1.4 < ratios["Output tokens/s"] < 2.6
    assert 0.35 < ratios["ITL p50, ms"] < 0.75
