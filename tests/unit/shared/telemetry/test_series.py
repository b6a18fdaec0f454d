"""Series: declared once, made per process, shown under every name, and added up over processes."""

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from headrace_api.metrics import Metrics
from headrace_shared.telemetry.exposition import Exposition
from headrace_shared.telemetry.series import Counted, Instruments, Level, Observed, Spread
from headrace_worker.service.metrics import WorkerMetrics


class Some(Instruments):
    calls = Counted("headrace:calls", "Calls.", ("who",))
    open = Level("headrace:open", "Open.", also="vllm:open")
    took = Spread("headrace:took_seconds", "Took.", ("who",), buckets=(1, 2, 5), also="vllm:took_seconds")
    seen = Observed("headrace:seen", "Seen.")


def values(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_series_with_two_names_is_shown_under_both() -> None:
    some = Some(CollectorRegistry())
    exposition = Exposition(CollectorRegistry(), [Some])
    assert "headrace:open" not in exposition.text().decode()
    registry = CollectorRegistry()
    some = Some(registry)
    some.open.set(3)
    some.took.labels("a").observe(1.5)
    some.settle()
    shown = values(Exposition(registry, [Some]).text().decode())
    assert shown["headrace:open", ()] == shown["vllm:open", ()] == 3
    for name in ("headrace:took_seconds", "vllm:took_seconds"):
        assert shown[f"{name}_bucket", (("le", "2.0"), ("who", "a"))] == 1
        assert shown[f"{name}_sum", (("who", "a"),)] == 1.5


def test_without_engine_series_only_vllms_are_gone() -> None:
    registry = CollectorRegistry()
    Some(registry).open.set(3)
    text = Exposition(registry, [Some], engine_series=False).text().decode()
    assert "headrace:open 3.0" in text
    assert "vllm:" not in text


def test_what_is_declared_is_what_is_shown() -> None:
    registry = CollectorRegistry()
    some = Some(registry)
    some.calls.labels("a").inc()
    some.took.labels("a").observe(1)
    text = Exposition(registry, [Some]).text().decode()
    for series in Some.declared():
        if not isinstance(series, Observed):
            assert all(name in text for name in series.sample_names), series.name


@pytest.mark.parametrize("kind", [Metrics, WorkerMetrics])
def test_no_two_series_of_a_process_have_a_name_in_common(kind: type[Instruments]) -> None:
    names = [name for series in kind.declared() for name in series.shown_names]
    assert len(names) == len(set(names))
    kind()  # type: ignore[call-arg]


def test_no_series_of_vllm_is_shown_by_both_kinds_of_process() -> None:
    api, worker = ({series.name for series in kind.declared()} for kind in (Metrics, WorkerMetrics))
    assert [name for name in api & worker if name.startswith("vllm:")] == []


def test_labels_are_never_what_a_client_can_make_up() -> None:
    bounded = {
        "dtype", "engine", "finished_reason", "handler", "kind", "method", "mode", "model_name", "operation", "outcome",
        "part", "phase", "position", "request_type",
        "priority", "reason", "source", "state", "status", "tenant", "why",
        "block_size", "cache_dtype", "enable_prefix_caching", "gpu_memory_utilization", "max_model_len",
        "max_num_batched_tokens", "max_num_seqs", "num_gpu_blocks",
    }  # fmt: skip
    for kind in (Metrics, WorkerMetrics):
        assert {label for series in kind.declared() for label in series.labels} <= bounded


_PROCESS = """
import sys
from prometheus_client import CollectorRegistry
from headrace_shared.telemetry.exposition import Exposition
sys.path.insert(0, sys.argv[1])
from test_series import Some
registry = CollectorRegistry()
some = Some(registry)
some.calls.labels("a").inc(2)
some.open.set(3)
some.took.labels("a").observe(1.5)
some.settle()
if sys.argv[2] == "tell":
    print(Exposition(registry, [Some]).text().decode())
else:
    input()
"""


def test_processes_that_share_a_folder_add_up(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", _PROCESS, str(Path(__file__).parent)]
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    with subprocess.Popen([*arguments, "wait"], env=environment, stdin=subprocess.PIPE) as other:
        while not list(tmp_path.glob("histogram_*.db")):
            assert other.poll() is None
        told = subprocess.run([*arguments, "tell"], env=environment, capture_output=True, text=True, check=True).stdout
        other.communicate(b"\n")
    shown = values(told)
    left = subprocess.run([*arguments, "tell"], env=environment, capture_output=True, text=True, check=True).stdout
    assert shown["headrace:calls_total", (("who", "a"),)] == 4
    assert shown["headrace:open", ()] == shown["vllm:open", ()] == 6
    assert shown["vllm:took_seconds_count", (("who", "a"),)] == 2
    # Three processes have counted by now, of which one is alive.
    assert values(left)["headrace:calls_total", (("who", "a"),)] == 6
    assert values(left)["headrace:open", ()] == 3
