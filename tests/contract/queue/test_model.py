"""Random histories of the protocol on a real server, step by step against a model of what must be true."""

import asyncio
import secrets
from collections.abc import Awaitable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from queue_model import ModelRequest, QueueModel
from queue_traffic import FINISHED, QUEUE, make_job, token
from redis.asyncio import Redis

from headrace_shared.errors import ErrorCode
from headrace_shared.protocol.ask import Ask
from headrace_shared.protocol.codec import decode_frame, encode_frame
from headrace_shared.protocol.event import TERMINAL, Event, Failed
from headrace_shared.queue import keys
from headrace_shared.queue.client import connect
from headrace_shared.queue.requests import CancelOutcome, EnqueueResult, QueueLimits, RequestQueue
from headrace_shared.queue.scripts import Script, run_script
from headrace_shared.settings import RedisSettings

WORKERS = ("w0", "w1", "w2")
MAX_LOST = 2
LEASE_MS = 3_600_000
FAILED = encode_frame([Failed(ErrorCode.INTERNAL, "by a script")])
CANCELS = (CancelOutcome.GONE, CancelOutcome.CANCELLED, CancelOutcome.REQUESTED, CancelOutcome.HEARD)

workers = st.sampled_from(WORKERS)


class Protocol(RuleBasedStateMachine):
    """Calls the scripts as a worker in any language would; leases end and deadlines pass when a rule says so."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.redis: Redis = connect(RedisSettings(url=url))
        self.queue = RequestQueue(self.redis, QueueLimits(max_attempts=MAX_LOST))
        self.model = QueueModel(MAX_LOST)
        self.base = keys.base(QUEUE)
        self.nonces = {worker: secrets.token_hex(4) for worker in WORKERS}
        self.unheard: dict[str, list[tuple[str, int]]] = {}

    def run(self, call: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await call

        return self.runner.run(wait())

    def call(self, script: Script, *args: bytes | str | int) -> Any:
        return self.run(run_script(self.redis, script, self.base, *args))

    def some(self, data: st.DataObject, states: str = "QROD") -> str:
        return str(data.draw(st.sampled_from([i for i, r in self.model.requests.items() if r.state in states])))

    def has(self, states: str) -> bool:
        return any(request.state in states for request in self.model.requests.values())

    @initialize()
    def empty_server(self) -> None:
        self.run(self.redis.flushall())

    def teardown(self) -> None:
        try:
            self.finish_everything()
        finally:
            self.run(self.redis.aclose())
            self.runner.close()

    # What happens.

    @rule(priority=st.integers(-1, 1), tenant=st.sampled_from(["a", "b"]), timed=st.booleans())
    def enqueue(self, priority: int, tenant: str, timed: bool) -> None:
        number = len(self.model.requests)
        rid, ask = f"r{number}", f"a{number // 2}"
        self.model.requests[rid] = ModelRequest(priority, tenant, number, ask)
        job = make_job(rid, priority=priority, tenant=tenant)
        asked = Ask("chat", ask, b"{}", 1)
        assert (
            self.run(self.queue.enqueue(job, ask=asked, timeout_ms=2**40 if timed else None)).result
            is EnqueueResult.NEW
        )

    @precondition(lambda self: self.model.requests)
    @rule(data=st.data())
    def enqueue_again(self, data: st.DataObject) -> None:
        rid = self.some(data)
        job = make_job(rid, priority=data.draw(st.integers(-1, 1)))
        asked = Ask("chat", self.model.requests[rid].ask, b"{}", 2)
        assert self.run(self.queue.enqueue(job, ask=asked)).result is EnqueueResult.DUPLICATE

    @rule(worker=workers, want=st.integers(1, 3), heard=st.booleans())
    def claim(self, worker: str, want: int, heard: bool) -> None:
        """``heard`` False: the reply is lost, and the next claim of this worker repeats the nonce."""
        _, *rows = self.call(Script.CLAIM, worker, self.nonces[worker], want, 10**9, LEASE_MS, FAILED)
        got = [(row[0].decode(), int(row[1])) for row in rows]
        self.model.dead.discard(worker)
        if worker in self.unheard:
            expected = [
                (rid, epoch)
                for rid, epoch in self.unheard[worker]
                if (r := self.model.requests[rid]).owner == worker and r.epoch == epoch and r.state == "R"
            ]
            assert got == expected
        else:
            self.take(worker, want, got)
        if heard:
            self.nonces[worker] = secrets.token_hex(4)
            self.unheard.pop(worker, None)
        else:
            self.unheard.setdefault(worker, got)

    def take(self, worker: str, want: int, got: list[tuple[str, int]]) -> None:
        self.end_expired()
        assert len(got) == min(want, self.model.open_to(worker))
        for rid, epoch in got:
            assert self.model.may_be_next(rid)
            assert epoch > self.model.requests[rid].epoch
            self.model.claim(rid, worker, epoch)

    def end_expired(self) -> None:
        """A claim ends the expired requests that it meets; which ones depends on where it stops."""
        for rid, request in self.model.waiting().items():
            if request.expired and self.run(self.redis.hget(keys.request(QUEUE, rid), "state")) == b"D":  # type: ignore[arg-type]
                self.model.end(request)

    @precondition(lambda self: self.has("R"))
    @rule(data=st.data(), final=st.booleans(), twice=st.booleans())
    def append(self, data: st.DataObject, final: bool, twice: bool) -> None:
        rid = self.some(data, "R")
        request = self.model.requests[rid]
        assert request.owner is not None
        for _ in range(1 + twice):
            self.say(rid, request.owner, request.epoch, request.seq + 1, final)

    @precondition(lambda self: self.model.requests)
    @rule(data=st.data(), worker=workers, off=st.integers(-1, 1), seq=st.integers(0, 4), final=st.booleans())
    def append_out_of_turn(self, data: st.DataObject, worker: str, off: int, seq: int, final: bool) -> None:
        """Zombies, repetitions, gaps: any worker, about any request, with a number and an epoch near the right ones."""
        rid = self.some(data)
        request = self.model.requests[rid]
        self.say(rid, worker, request.epoch + off, max(1, request.seq - 1 + seq), final)

    def say(self, rid: str, worker: str, epoch: int, seq: int, final: bool) -> None:
        events: list[Event] = [FINISHED] if final else [token(seq)]
        frame = (rid, epoch, seq, "f13" if final else "t", encode_frame(events))
        status, last, _ = self.call(Script.APPEND, worker, LEASE_MS, *frame)
        self.model.dead.discard(worker)
        assert status == self.model.append(rid, worker, epoch, seq, final=final)
        assert last == self.model.requests[rid].seq

    @precondition(lambda self: self.model.requests)
    @rule(data=st.data(), listened=st.booleans(), unless_heard=st.booleans())
    def cancel(self, data: st.DataObject, listened: bool, unless_heard: bool) -> None:
        rid = self.some(data)
        outcome = self.run(self.cancel_beside_a_listener(rid, listened, unless_heard))
        assert CANCELS.index(outcome) == self.model.cancel(rid, heard=listened and unless_heard)

    async def cancel_beside_a_listener(self, rid: str, listened: bool, unless_heard: bool) -> CancelOutcome:
        listener = self.redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await listener.connect()
            if listened:
                await listener.send_command("SSUBSCRIBE", keys.token_channel(QUEUE, rid))
                await listener.read_response()
            return await self.queue.cancel(QUEUE, rid, "x", unless_heard=unless_heard)
        finally:
            if listened:
                await listener.send_command("SUNSUBSCRIBE", keys.token_channel(QUEUE, rid))
                while (await listener.read_response())[0] != b"sunsubscribe":
                    pass  # what was said about the request meanwhile
            await listener.disconnect()

    @rule(worker=workers)
    def lease_ends(self, worker: str) -> None:
        if self.run(self.redis.zadd(f"{self.base}wk", {worker: 1}, xx=True, ch=True)):
            self.model.dead.add(worker)

    @precondition(lambda self: self.has("QRO"))
    @rule(data=st.data())
    def deadline_passes(self, data: st.DataObject) -> None:
        rid = self.some(data, "QRO")
        if self.run(self.redis.hexists(keys.request(QUEUE, rid), "deadline")):  # type: ignore[arg-type]
            self.run(self.redis.hset(keys.request(QUEUE, rid), "deadline", 1))  # type: ignore[arg-type]
            self.run(self.redis.zadd(f"{self.base}due", {rid: 1}, xx=True))
            self.model.requests[rid].expired = True

    @rule()
    def reap(self) -> None:
        back = self.reap_all("")
        for request in list(self.model.waiting().values()):
            if request.expired:
                self.model.end(request)
        expected = sum(self.model.give_back(worker, voluntary=False) for worker in sorted(self.model.dead))
        assert back == expected
        for worker in self.model.dead:
            self.unheard.pop(worker, None)  # its nonce is forgotten with it
        self.model.dead.clear()
        # One that was put back in this very call may have been swept already.
        self.end_expired()

    @rule(worker=workers)
    def release(self, worker: str) -> None:
        back = self.reap_all(worker)
        assert back == self.model.give_back(worker, voluntary=True)
        self.model.dead.discard(worker)
        self.unheard.pop(worker, None)

    def reap_all(self, victim: str) -> int:
        total, more = 0, 1
        while more:
            put_back, more = self.call(Script.REAP, "reaper", LEASE_MS, victim, 2, FAILED, FAILED, FAILED)
            total += put_back
        return total

    def finish_everything(self) -> None:
        for rid, request in self.model.requests.items():
            if request.state == "R":
                self.say(rid, str(request.owner), request.epoch, request.seq + 1, True)
            elif request.state != "D":
                self.cancel_for_good(rid)
        self.what_is_stored_is_what_must_be()
        for worker in WORKERS:
            self.reap_all(worker)
        names = [key.decode().removeprefix(self.base) for key in self.run(self.redis.keys("*"))]
        assert {name for name in names if name.split(":")[0] not in ("req", "out", "ask")} <= {"cnt", "dlq", "pace"}

    def cancel_for_good(self, rid: str) -> None:
        assert self.run(self.queue.cancel(QUEUE, rid, "x")) is CancelOutcome.CANCELLED
        assert self.model.cancel(rid) == 1

    # What must be true, always.

    @invariant()
    def what_is_stored_is_what_must_be(self) -> None:
        depth = self.run(self.queue.depth(QUEUE))
        waiting, running = self.model.waiting(), self.model.running()
        assert (depth.queued_requests, depth.queued_tokens, depth.running) == (
            len(waiting),
            10 * len(waiting),
            len(running),
        )
        for worker in WORKERS:
            owned = self.run(self.redis.zrange(f"{self.base}own:{worker}", 0, -1))
            assert {rid.decode() for rid in owned} == set(self.model.running(worker))
        for rid, request in self.model.requests.items():
            self.run(self.check(rid, request))
        for ask in {request.ask for request in self.model.requests.values()}:
            self.run(self.check_ask(ask))

    async def check_ask(self, ask: str) -> None:
        unfinished = self.model.unfinished(ask)
        stored = await self.redis.hget(keys.ask(QUEUE, ask), "open")  # type: ignore[misc]
        assert int(stored) == unfinished
        assert (await self.redis.pttl(keys.ask(QUEUE, ask)) > 0) is (unfinished == 0)

    async def check(self, rid: str, request: ModelRequest) -> None:
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.hmget(keys.request(QUEUE, rid), ["state", "epoch", "seq"])
        pipeline.xrange(keys.token_log(QUEUE, rid))
        pipeline.exists(f"{self.base}body:{rid}")
        pipeline.pttl(keys.request(QUEUE, rid))
        stored, log, body, lifetime = await pipeline.execute()
        assert [value.decode() for value in stored] == [request.state, str(request.epoch), str(request.seq)]
        assert [entry for entry, _ in log] == [f"{seq}-0".encode() for seq in range(1, request.seq + 1)]
        events = [event for _, fields in log for event in decode_frame(fields[b"d"])]
        done = request.state == "D"
        assert [isinstance(event, TERMINAL) for event in events] == [False] * (len(events) - done) + [True] * done
        assert bool(body) is not done
        assert (lifetime > 0) is done


@pytest.mark.timeout(600)  # it takes seconds; a failure is then made as short as possible
def test_every_history_of_the_protocol_is_as_the_model_says(valkey_url: str) -> None:
    run_state_machine_as_test(
        lambda: Protocol(valkey_url),  # type: ignore[arg-type]  # any callable will do
        settings=settings(
            max_examples=100,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        ),
    )
