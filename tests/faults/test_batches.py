"""Processes that are killed while they work on a batch: every item has one result, that of an undisturbed run."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from batching import BatchWorkerProcess, chats, errors_of, finished, numbered, output_of, said, submit
from fleet import ApiProcess, Fleet, fleet_on, wait_until
from openai import OpenAI
from webhook_receiver import SECRET, running_receiver
from worker_process import WorkerProcess

from headrace_cli.embedded_redis import EmbeddedRedis

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ITEMS = 240
SOME = 40
"""After so many a batch is in full flow, and far from its end."""
CONTENT = chats(ITEMS, max_tokens=30, ignore_eos=True)


class Rig:
    """Everything that works on a batch, twice where that is how it would be run."""

    def __init__(self, redis: EmbeddedRedis, fleet: Fleet, settings: Mapping[str, object], stack: ExitStack) -> None:
        self._redis = redis
        self._fleet = fleet
        self._settings = settings
        self._stack = stack
        self.workers = [self._worker() for _ in range(2)]
        self.api = fleet.api(**settings)
        self.batch_workers = [self._batch_worker()]
        self.api.wait_until_ready(workers=2, timeout_s=100)

    @property
    def client(self) -> OpenAI:
        return self.api.client()

    def hand_over(self) -> None:
        """As a rolling restart would: the next one is there before the first one leaves."""
        successor = self._batch_worker()
        assert self.batch_workers[0].terminate() == 0
        self.batch_workers = [successor]

    def kill(self, victim: str) -> None:
        """And start another one in its place."""
        match victim:
            case "batch worker":
                self.batch_workers[0].kill()
                self.batch_workers = [self._batch_worker()]
            case "worker":
                self.workers[0].kill()
                self.workers[0] = self._worker()
            case "API node":
                self.api.kill()
                self.api = self._fleet.api(**self._settings)
                self.api.wait_until_ready(timeout_s=100)
            case "Redis":
                self._redis.kill()
                self._redis.start()

    def _worker(self) -> WorkerProcess:
        return self._fleet.worker(simulated_step_ms=10, lease_ms=1500, max_num_seqs=16)

    def _batch_worker(self) -> BatchWorkerProcess:
        worker = BatchWorkerProcess(self._redis.url, **self._settings, batch_lease_s=1.5)
        self._stack.callback(worker.kill)
        return worker


@contextmanager
def running_rig(folder: Path, **settings: object) -> Iterator[Rig]:
    with EmbeddedRedis(folder / "valkey") as redis, ExitStack() as stack, fleet_on(redis.url) as fleet:
        yield Rig(redis, fleet, {"files": folder / "files", **settings}, stack)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One for all: whatever is killed is replaced."""
    with running_rig(tmp_path_factory.mktemp("rig")) as rig:
        yield rig


@pytest.fixture(scope="module")
def undisturbed(rig: Rig) -> dict[str, Any]:
    """What the items are answered when nothing happens."""
    output = output_of(rig.client, finished(rig.client, submit(rig.client, CONTENT).id, 150))
    assert set(output) == set(numbered(ITEMS))
    return {name: said(result) for name, result in output.items()}


def completed(api: ApiProcess, batch_id: str) -> int:
    counts = api.client().batches.retrieve(batch_id).request_counts
    return 0 if counts is None else counts.completed


@pytest.mark.parametrize("victim", ["batch worker", "worker", "API node", "Redis"])
def test_a_batch_survives_any_process(rig: Rig, undisturbed: dict[str, Any], victim: str) -> None:
    batch = submit(rig.client, CONTENT)
    wait_until(lambda: completed(rig.api, batch.id) > SOME, "some of it is done")
    rig.kill(victim)
    batch = finished(rig.client, batch.id, 150)
    assert (batch.status, batch.error_file_id) == ("completed", None)
    assert {name: said(result) for name, result in output_of(rig.client, batch).items()} == undisturbed
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (ITEMS, 0)
    assert batch.usage is not None
    assert batch.usage.output_tokens == 30 * ITEMS


def test_a_batch_worker_that_is_stopped_hands_its_batch_over(rig: Rig) -> None:
    batch = submit(rig.client, CONTENT)
    wait_until(lambda: completed(rig.api, batch.id) > SOME, "some of it is done")
    rig.hand_over()
    batch = finished(rig.client, batch.id, 150)
    assert (batch.status, errors_of(rig.client, batch) if batch.error_file_id else None) == ("completed", None)
    assert set(output_of(rig.client, batch)) == set(numbered(ITEMS))


def test_a_batch_is_cancelled_although_its_batch_worker_has_died(rig: Rig) -> None:
    batch = submit(rig.client, chats(ITEMS, max_tokens=2000, ignore_eos=True))
    wait_until(lambda: rig.client.batches.retrieve(batch.id).status == "in_progress", "it is worked on")
    time.sleep(1)
    rig.batch_workers[0].kill()
    rig.client.batches.cancel(batch.id)
    rig.kill("batch worker")
    batch = finished(rig.client, batch.id, 150)
    assert batch.status == "cancelled"
    assert set(errors_of(rig.client, batch)) == set(numbered(ITEMS))
    # Nothing runs on.
    metrics = httpx.get(f"{rig.api.url}/autoscale/simulated").json()
    wait_until(lambda: httpx.get(f"{rig.api.url}/autoscale/simulated").json()["running"] == 0, f"all ends: {metrics}")


def test_two_batches_survive_kills_of_both_batch_workers_in_turn(rig: Rig) -> None:
    batches = [submit(rig.client, CONTENT) for _ in range(2)]
    for share in (SOME, 2 * SOME, 3 * SOME):
        wait_until(lambda share=share: completed(rig.api, batches[0].id) > share, "more of it is done")  # type: ignore[misc]
        rig.kill("batch worker")
        time.sleep(0.2)
    for batch in batches:
        over = finished(rig.client, batch.id, 150)
        assert over.status == "completed"
        assert set(output_of(rig.client, over)) == set(numbered(ITEMS))
        assert errors_of(rig.client, over) == {}


def test_the_end_of_a_batch_is_told_although_the_batch_worker_died_over_it(tmp_path: Path) -> None:
    with running_receiver() as receiver:
        url = f"http://{receiver.host}/"
        with running_rig(tmp_path, webhook_secret=SECRET, webhook_url=url) as rig:
            receiver.answers[:] = [0]
            batch = submit(rig.client, chats(3))
            wait_until(lambda: len(receiver.received) == 1, "its end is about to be told")
            rig.kill("batch worker")
            wait_until(lambda: len(receiver.received) == 2, "its end is told again", 40)
            first, second = (sent.event() for sent in receiver.received)
            assert (first.id, first.type, first.data.id) == (second.id, "batch.completed", batch.id)
            wait_until(lambda: webhook_of(rig, batch.id)["status"] == "delivered", "that is known")
            assert webhook_of(rig, batch.id)["attempts"] == 2


def webhook_of(rig: Rig, batch_id: str) -> Any:
    return rig.client.batches.retrieve(batch_id).to_dict()["webhook"]
