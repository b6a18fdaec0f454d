"""A batch through the openai SDK: PYTHONPATH=tests/support python tests/benchmarks/batches.py [--items 10000] [--kills]

Simulated engine, or with ``--model demo`` the demo model on this machine's CPU. ``--kills`` ends, in this order, the
batch worker, the worker, Redis and the API node with SIGKILL while the batch is worked on, and starts another one in
their places; then the results are compared with those of a batch that nothing happened to. Fails unless every custom_id
has exactly one result.
"""

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import psutil  # type: ignore[import-untyped]
from batching import BatchWorkerProcess, chats, finished, numbered, output_of, said, submit
from fleet import ApiProcess, Fleet, fleet_on, wait_until
from openai.types import Batch

from headrace_cli import demo_model
from headrace_cli.embedded_redis import EmbeddedRedis
from headrace_cli.terminal import Terminal

PATIENCE_S = 3600


class Rig:
    """One of each."""

    def __init__(self, redis: EmbeddedRedis, fleet: Fleet, files: Path, asked: argparse.Namespace) -> None:
        self._redis, self._fleet, self._files = redis, fleet, files
        self._engine: dict[str, Any] = {"simulated_step_ms": asked.step_ms, "lease_ms": 2000, "log_level": "warning"}
        if asked.model == "demo":
            folder = demo_model.ensure(Terminal())
            # Few at once: results come one after another, so that there is something left for each that is killed.
            self._engine = {"engine": "torch", "model": folder, "served_model_name": "demo"}
            self._engine |= {"lease_ms": 5000, "max_num_seqs": 16, "log_level": "warning"}
        self.worker = fleet.worker(**self._engine)
        self.api = self._api()
        self.batch_worker = self._batch_worker()
        self.api.wait_until_ready(timeout_s=180)

    def kill(self, victim: str) -> None:
        """And start another one in its place."""
        match victim:
            case "batch worker":
                self.batch_worker.kill()
                self.batch_worker = self._batch_worker()
            case "worker":
                self.worker.kill()
                self.worker = self._fleet.worker(**self._engine)
            case "API node":
                self.api.kill()
                self.api = self._api()
                self.api.wait_until_ready(timeout_s=180)
            case "Redis":
                self._redis.kill()
                self._redis.start()

    def seconds(self) -> dict[str, float]:
        """CPU time by process."""
        processes = {"worker": self.worker, "API node": self.api, "batch worker": self.batch_worker}
        found = {name: sum(psutil.Process(each.process.pid).cpu_times()[:2]) for name, each in processes.items()}
        return found | {"Redis": sum(psutil.Process(self._redis.pid).cpu_times()[:2])}

    def _api(self) -> ApiProcess:
        return self._fleet.api(files=self._files, access_log="false")

    def _batch_worker(self) -> BatchWorkerProcess:
        return BatchWorkerProcess(self._redis.url, files=self._files, batch_lease_s=3)


def done(rig: Rig, batch_id: str) -> int:
    try:
        counts = rig.api.client().batches.retrieve(batch_id).request_counts
    except openai.OpenAIError:
        return 0
    return counts.completed if counts else 0


def worked(rig: Rig, content: bytes, kills: tuple[str, ...] = ()) -> tuple[Batch, float]:
    begun_s = time.monotonic()
    batch = submit(rig.api.client(), content)
    items = content.count(b"\n") + 1
    for number, victim in enumerate(kills, 1):
        mark = items * number // (len(kills) + 1)
        wait_until(lambda mark=mark: done(rig, batch.id) >= mark, f"{mark} are done", PATIENCE_S)  # type: ignore[misc]
        so_far = done(rig, batch.id)
        print(f"  {so_far} done: SIGKILL to {victim}", flush=True)
        assert so_far < items, "nothing is left to be disturbed"
        rig.kill(victim)
    batch = finished(rig.api.client(), batch.id, PATIENCE_S)
    return batch, time.monotonic() - begun_s


def checked(rig: Rig, batch: Batch, items: int) -> dict[str, Any]:
    assert (batch.status, batch.error_file_id) == ("completed", None), batch
    output = output_of(rig.api.client(), batch)
    assert set(output) == set(numbered(items))
    return {name: said(result) for name, result in output.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--model", choices=["simulated", "demo"], default="simulated")
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--step-ms", type=float, default=2)
    parser.add_argument("--kills", action="store_true")
    asked = parser.parse_args()
    content = chats(asked.items, model=asked.model, max_tokens=asked.tokens, ignore_eos=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(EmbeddedRedis(folder / "queue", listen="tcp"))
        fleet = stack.enter_context(fleet_on(redis.url))
        rig = Rig(redis, fleet, folder / "files", asked)
        stack.callback(lambda: rig.batch_worker.kill())
        before = rig.seconds()
        batch, seconds = worked(rig, content)
        results = checked(rig, batch, asked.items)
        usage = batch.usage
        tokens = usage.output_tokens if usage else 0
        used = {name: round(after - before[name], 1) for name, after in rig.seconds().items()}
        print(f"{asked.items} items of {asked.tokens} tokens ({asked.model}): {seconds:.1f} s, ", end="")
        print(f"{asked.items / seconds:.0f} items/s, {tokens / seconds:.0f} tokens/s; CPU s {used}", flush=True)
        if asked.kills:
            batch, seconds = worked(rig, content, ("batch worker", "worker", "Redis", "API node"))
            same = checked(rig, batch, asked.items) == results
            print(f"with four kills: {seconds:.1f} s; every custom_id once; results equal: {same}")
            assert same


if __name__ == "__main__":
    main()
