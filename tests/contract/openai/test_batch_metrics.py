"""A batch worker's own /metrics and /health."""

import asyncio
import socket
from pathlib import Path

import httpx
import pytest
from batching import BatchWorkerProcess, batch_is_over, chats, item
from eventually import eventually
from live_api import running_api
from ports import free_port
from prometheus_client.parser import text_string_to_metric_families
from scripted_worker import ScriptedWorker

from headrace_api.batches.metrics import BatchMetrics


async def test_a_batch_worker_shows_what_it_has_done(
    valkey_url: str, worker: ScriptedWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    async with running_api(valkey_url, files=tmp_path) as api, httpx.AsyncClient() as http:

        async def shown() -> dict[tuple[str, ...], float]:
            text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
            families = text_string_to_metric_families(text)
            return {
                (sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples
            }

        async def something_is_put_off() -> bool:
            try:
                return (await shown()).get(("headrace:batch_worker_put_off_total", "refused"), 0) > 0
            except httpx.ConnectError:  # it is still starting
                return False

        async def nothing_is_left() -> bool:
            return (await shown())["headrace:batch_worker_batches",] == 0

        monkeypatch.setenv("HEADRACE_QUEUE_MAX_REQUESTS", "2")
        await worker.stop_claiming()
        process = BatchWorkerProcess(valkey_url, files=tmp_path, batch_metrics_port=port, batch_window=9)
        try:
            bad = item("bad", {"model": "tiny", "messages": "none"}).encode()
            over = asyncio.create_task(batch_is_over(api, bad + b"\n" + chats(5, model="tiny")))
            await eventually(something_is_put_off, 20)
            busy = await shown()
            worker.go_on_claiming()
            batch = await over
            await eventually(nothing_is_left)
            found = await shown()
            text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
            assert (await http.get(f"http://127.0.0.1:{port}/health")).status_code == 200
        finally:
            assert process.terminate() == 0
    assert batch.status == "completed"
    assert (busy["headrace:batch_worker_batches",], busy["headrace:batch_worker_taken_total",]) == (1, 1)
    assert busy["headrace:batch_worker_places", "used"] + busy["headrace:batch_worker_places", "free"] == 9
    assert busy["headrace:batch_worker_places", "used"] >= 5
    assert found["headrace:batch_worker_places", "free"] == 9
    results = [found["headrace:batch_worker_results_total", kind] for kind in ("output", "error")]
    assert (results, found["headrace:batch_worker_segments_total",] >= 1) == ([5, 1], True)
    assert found["headrace:event_loop_lag_seconds_count",] > 0
    for series in BatchMetrics.declared():
        assert f"# TYPE {series.shown_names[0]} " in text
    # What users wait for is not mixed with what items wait for.
    assert "vllm:" not in text
    assert "headrace:api_requests" not in text


def test_a_port_that_is_taken_ends_it_with_a_line_that_says_so(
    valkey_url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        status = BatchWorkerProcess(valkey_url, files=tmp_path, batch_metrics_port=port).process.wait(timeout=40)
    assert status == 2
    assert f"batch_metrics_port: cannot listen on 127.0.0.1:{port}" in capfd.readouterr().err
