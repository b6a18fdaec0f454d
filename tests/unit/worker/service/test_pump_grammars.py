"""A request waits for its grammar outside the engine, and nobody waits with it."""

import asyncio
from concurrent.futures import Future
from typing import Any

import pytest
from scripted_worker import byte_tokenizer

from headrace_shared.errors import ErrorCode
from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.event import Event, Failed, Started
from headrace_shared.protocol.grammar import GrammarKind, GrammarSpec
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import SamplingSpec
from headrace_shared.queue.claims import AppendStatus, Claim
from headrace_shared.text.tokenizer import Tokenizer
from headrace_worker.schedule.request import Grammar, Request
from headrace_worker.service.attempt_span import AttemptSpans
from headrace_worker.service.attempts import Attempts
from headrace_worker.service.metrics import WorkerMetrics
from headrace_worker.service.pump import Pump


class Compiler:
    """Finished by the test."""

    def __init__(self) -> None:
        self.asked: list[Future[Grammar]] = []

    def compile(self, _spec: GrammarSpec) -> Future[Grammar]:
        self.asked.append(Future())
        return self.asked[-1]


class Engine:
    def __init__(self) -> None:
        self.added: list[Request] = []

    def add(self, request: Request) -> None:
        self.added.append(request)

    def abort(self, request_id: str) -> None:
        """Nothing runs here."""


class Outbox:
    def __init__(self) -> None:
        self.said: dict[str, list[Event]] = {}

    def open(self, claim: Claim) -> None:
        self.said[claim.request_id] = []

    def put(self, request_id: str, events: list[Event]) -> None:
        self.said[request_id] += events

    def end(self, request_id: str, event: Event, used_tokens: int | None = None) -> None:
        self.said[request_id].append(event)


class Setup:
    def __init__(self, *, can_constrain: bool = True) -> None:
        self.compiler, self.engine, self.outbox = Compiler(), Engine(), Outbox()
        attempts = Attempts(WorkerMetrics(), AttemptSpans(None, "simulated", "w"))
        self.pump = Pump(Tokenizer(byte_tokenizer()), "w", attempts, self.compiler if can_constrain else None)
        engine: Any = self.engine
        outbox: Any = self.outbox
        self.pump.connect(engine, outbox)

    def accept(self, request_id: str, *, constrained: bool) -> None:
        grammar = GrammarSpec(GrammarKind.REGEX, "a") if constrained else None
        job = GenerateJob(JobHeader(request_id, "q"), pack_ids([1]), 2, SamplingSpec(grammar=grammar))
        self.pump.accept(Claim(request_id, 1, 0, 1, 0, 0, 0, job, []))

    def failures(self, request_id: str) -> list[Failed]:
        return [event for event in self.outbox.said[request_id] if isinstance(event, Failed)]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_others_do_not_wait_for_a_grammar() -> None:
    setup = Setup()
    setup.accept("slow", constrained=True)
    setup.accept("plain", constrained=False)
    await settle()
    assert [request.request_id for request in setup.engine.added] == ["plain/1"]
    compiled: Any = object()
    setup.compiler.asked[0].set_result(compiled)
    await settle()
    assert [request.request_id for request in setup.engine.added] == ["plain/1", "slow/1"]
    assert [sequence.grammar for sequence in setup.engine.added[1].sequences] == [compiled] * 2
    assert isinstance(setup.outbox.said["slow"][0], Started)


async def test_a_grammar_that_does_not_compile_fails_its_request() -> None:
    setup = Setup()
    setup.accept("r", constrained=True)
    await settle()
    setup.compiler.asked[0].set_exception(ValueError("no such rule"))
    await settle()
    assert setup.failures("r") == [Failed(ErrorCode.INVALID_REQUEST, "no such rule", "response_format")]
    assert setup.engine.added == []
    assert "r" not in setup.pump


async def test_a_compiler_that_breaks_fails_its_request_as_ours(caplog: pytest.LogCaptureFixture) -> None:
    setup = Setup()
    setup.accept("r", constrained=True)
    await settle()
    setup.compiler.asked[0].set_exception(TypeError("bug"))
    await settle()
    assert [failure.code for failure in setup.failures("r")] == [ErrorCode.INTERNAL]
    assert "grammar compiler failed" in caplog.text


async def test_a_request_cancelled_while_it_waits_never_runs() -> None:
    setup = Setup()
    setup.accept("r", constrained=True)
    await settle()
    setup.pump.give_up("r", AppendStatus.CANCELLED)
    compiled: Any = object()
    setup.compiler.asked[0].set_result(compiled)
    await settle()
    assert setup.engine.added == []
    assert [failure.code for failure in setup.failures("r")] == [ErrorCode.CANCELLED]


async def test_an_engine_without_grammars_refuses_them() -> None:
    setup = Setup(can_constrain=False)
    setup.accept("r", constrained=True)
    await settle()
    [failure] = setup.failures("r")
    assert failure.code is ErrorCode.INVALID_REQUEST
    assert "cannot constrain" in failure.message
