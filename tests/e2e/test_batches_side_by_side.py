"""Batches of two tenants and users who wait, all at once, through real processes with the simulated engine."""

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx
import noting_worker
import pytest
from batching import BatchWorkerProcess, chats, finished, numbered, output_of, said, submit
from fleet import ApiProcess, fleet_on, wait_until
from live_api import sse_events
from noting_worker import ClaimNotes, Noted
from openai.types import Batch

pytestmark = pytest.mark.slow

ITEMS, WINDOW, SLOTS = 100, 12, 4
USERS, QUESTIONS = 3, 6


class System:
    """One of each, and what the worker notes."""

    def __init__(self, node: ApiProcess, notes: ClaimNotes) -> None:
        self.node = node
        self.notes = notes

    def queued(self) -> int:
        found: int = httpx.get(f"{self.node.url}/autoscale/simulated").json()["queued_requests"]
        return found

    def submit(self, tenant: str) -> Batch:
        with self.node.client(default_headers={"X-Headrace-Tenant": tenant}) as client:
            return submit(client, chats(ITEMS, ignore_eos=True))

    def status(self, batch: Batch) -> str:
        return self.node.client().batches.retrieve(batch.id).status

    def completed(self, batch: Batch) -> int:
        counts = self.node.client().batches.retrieve(batch.id).request_counts
        return counts.completed if counts else 0

    def stream(self, question: int) -> str:
        """All that a user receives, but for what differs from request to request."""
        body = {
            "messages": [{"role": "user", "content": f"question {question}"}],
            "seed": 1000 + question,
            "max_tokens": 12,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        events = sse_events(httpx.post(f"{self.node.url}/v1/chat/completions", json=body, timeout=100).text)
        request_id = events[0][0].partition(":")[0]
        text = "\n".join(f"{event_id} {data}" for event_id, data in events)
        return re.sub(r'"created":\d+', "", text.replace(request_id, ""))

    def keep_asking(self, first: int, over: Event) -> list[tuple[int, str]]:
        """A user: one question after another, and what each was answered."""
        asked = itertools.takewhile(lambda _: not over.is_set(), itertools.count(first))
        return [(number % QUESTIONS, self.stream(number % QUESTIONS)) for number in asked]


@pytest.fixture
def system(valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    monkeypatch.setenv(noting_worker.PLACE, str(tmp_path))
    with fleet_on(valkey_url) as fleet:
        fleet.worker(program="noting_worker", simulated_step_ms=5, max_num_seqs=SLOTS, lease_ms=5000)
        node = fleet.api(files=tmp_path / "files")
        batch_worker = BatchWorkerProcess(valkey_url, files=tmp_path / "files", batch_window=WINDOW)
        try:
            node.wait_until_ready()
            yield System(node, ClaimNotes(tmp_path))
        finally:
            batch_worker.kill()


def test_two_batches_advance_side_by_side_and_users_wait_behind_neither(system: System) -> None:
    undisturbed = [system.stream(question) for question in range(QUESTIONS)]
    calm = len(system.notes.read())
    system.notes.hold()
    batches = [system.submit(tenant) for tenant in ("ann", "bob")]
    wait_until(lambda: {system.status(batch) for batch in batches} == {"in_progress"}, "both are worked on")
    wait_until(lambda: system.queued() == WINDOW, "the window is full")
    over = Event()
    with ThreadPoolExecutor(USERS) as pool:
        users = [pool.submit(system.keep_asking, number, over) for number in range(USERS)]
        try:
            wait_until(lambda: system.queued() == WINDOW + USERS, "the users' first questions wait behind it")
            system.notes.release()
            wait_until(lambda: all(system.completed(batch) >= ITEMS // 2 for batch in batches), "half is done", 100)
        finally:
            over.set()
        answers = [answer for user in users for answer in user.result()]
    assert len(answers) >= USERS
    assert [text for _, text in answers] == [undisturbed[question] for question, _ in answers]

    results = []
    for batch in batches:
        done = finished(system.node.client(), batch.id, 100)
        assert (done.status, done.error_file_id) == ("completed", None)
        output = output_of(system.node.client(), done)
        assert set(output) == set(numbered(ITEMS))
        results.append({name: said(result) for name, result in output.items()})
    assert results[0] == results[1]

    claims = system.notes.read()[calm:]
    assert len({claim.request_id for claim in claims}) == len(claims) == 2 * ITEMS + len(answers)
    assert not any(batch_of(claim) for claim in claims[:USERS])
    check_nobody_waits_behind_items(claims)
    check_places_are_shared([name for claim in claims if (name := batch_of(claim))], {batch.id for batch in batches})


def batch_of(claim: Noted) -> str | None:
    """Whose item it is, None for a user's request."""
    return claim.request_id.rpartition("-")[0] if claim.request_id.startswith("batch_") else None


def check_nobody_waits_behind_items(claims: list[Noted]) -> None:
    """From the moment that a user's request is in the queue, no item is claimed before it."""
    for place, claim in enumerate(claims):
        if batch_of(claim) is None:
            earlier = [each for each in claims[:place] if batch_of(each)]
            assert not any(each.claimed_ms > claim.enqueued_ms for each in earlier)


def check_places_are_shared(items: list[str], batches: set[str]) -> None:
    """Until one batch has no more, both come forward alike, but for what was in the queue when the other one came."""
    claimed = Counter(dict.fromkeys(batches, 0))
    for name in items:
        claimed[name] += 1
        if max(claimed.values()) == ITEMS:
            return
        assert max(claimed.values()) - min(claimed.values()) <= 2 * WINDOW + 1
    raise AssertionError("no batch came to its end")
