"""A request waits for its grammar and its logits processors outside the engine, and nobody waits with it."""

import asyncio
from concurrent.futures import Future
from typing import Any

import pytest
from eventually import eventually
from scripted_worker import byte_tokenizer

from headrace_shared.errors import ErrorCode
from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.event import Delta, Event, Failed, Started
from headrace_shared.protocol.grammar import GrammarKind, GrammarSpec
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import ProcessorCall, SamplingSpec
from headrace_shared.queue.claims import AppendStatus, Claim
from headrace_shared.text.tokenizer import Tokenizer
from headrace_worker.schedule.plan import SequenceOutput
from headrace_worker.schedule.request import Grammar, Request
from headrace_worker.schedule.room import Room
from headrace_worker.service.attempt_span import AttemptSpans
from headrace_worker.service.attempts import Attempts
from headrace_worker.service.bridge import StepReport
from headrace_worker.service.metrics import WorkerMetrics
from headrace_worker.service.pump import LoadProcessors, Pump


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
    def __init__(self, *, can_constrain: bool = True, processors: LoadProcessors | None = None) -> None:
        self.compiler, self.engine, self.outbox = Compiler(), Engine(), Outbox()
        attempts = Attempts(WorkerMetrics(), AttemptSpans(None, "simulated", "w"))
        grammars = self.compiler if can_constrain else None
        self.pump = Pump(Tokenizer(byte_tokenizer()), "w", attempts, grammars, processors)
        engine: Any = self.engine
        outbox: Any = self.outbox
        self.pump.connect(engine, outbox)

    def accept(
        self, request_id: str, *, constrained: bool, calls: tuple[ProcessorCall, ...] = (), asked_as: str = ""
    ) -> None:
        grammar = GrammarSpec(GrammarKind.REGEX, "a", asked_as=asked_as) if constrained else None
        sampling = SamplingSpec(grammar=grammar, logits_processors=calls)
        job = GenerateJob(JobHeader(request_id, "q"), pack_ids([1]), 2, sampling)
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


@pytest.mark.parametrize(("asked_as", "param"), [("", "response_format"), ("guided_regex", "guided_regex")])
async def test_a_grammar_that_does_not_compile_fails_its_request(asked_as: str, param: str) -> None:
    setup = Setup()
    setup.accept("r", constrained=True, asked_as=asked_as)
    await settle()
    setup.compiler.asked[0].set_exception(ValueError("no such rule"))
    await settle()
    assert setup.failures("r") == [Failed(ErrorCode.INVALID_REQUEST, f"{param}: no such rule", param)]
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


async def test_logits_processors_are_imported_before_the_engine_gets_the_request() -> None:
    loaded: Any = [object()]
    asked: list[object] = []

    def load(calls: Any) -> Any:
        asked.append(calls)
        return loaded

    setup = Setup(processors=load)
    calls = (ProcessorCall("own.one"),)
    setup.accept("r", constrained=False, calls=calls)
    await eventually(lambda: bool(setup.engine.added))
    assert asked == [calls]
    assert [sequence.processors for sequence in setup.engine.added[0].sequences] == [loaded] * 2


async def test_logits_processors_that_cannot_be_used_fail_their_request() -> None:
    def load(_calls: Any) -> Any:
        raise ValueError("own.one is not allowed by this server")

    for setup, words in ((Setup(processors=load), "own.one is not allowed"), (Setup(), "no logits to process")):
        setup.accept("r", constrained=False, calls=(ProcessorCall("own.one"),))
        await eventually(lambda setup=setup: bool(setup.failures("r")))
        [failure] = setup.failures("r")
        assert (failure.code, failure.param) == (ErrorCode.INVALID_REQUEST, "logits_processors")
        assert words in failure.message
        assert setup.engine.added == []


async def test_a_request_that_fails_in_the_engine_is_told_so_and_is_gone() -> None:
    setup = Setup()
    setup.accept("r", constrained=False)
    output = SequenceOutput("r/1", 0, [], failure="own.one failed: RuntimeError")
    stats: Any = None
    setup.pump.deliver(StepReport([output], [], [], Room(1, 1, 1, 1), stats))
    [failure] = setup.failures("r")
    assert failure == Failed(
        ErrorCode.INVALID_REQUEST, "logits_processors: own.one failed: RuntimeError", "logits_processors"
    )
    assert "r" not in setup.pump


async def test_a_large_steps_first_outputs_go_out_first_and_each_requests_stay_in_order() -> None:
    setup = Setup()
    stats: Any = None
    names = [f"r{n}" for n in range(40)]
    for name in names:
        setup.accept(name, constrained=False)
    for step in range(3):
        outputs = [SequenceOutput(f"{name}/1", 0, [65 + step]) for name in names]
        setup.pump.deliver(StepReport(outputs, [], [], Room(1, 1, 1, 1), stats))
    told = [sum(isinstance(event, Delta) for event in setup.outbox.said[name]) for name in names]
    assert 0 < sum(told) < 20
    assert told == sorted(told, reverse=True)
    await settle()
    for name in names:
        deltas = [event for event in setup.outbox.said[name] if isinstance(event, Delta)]
        assert [delta.token_ids for delta in deltas] == [[65], [66], [67]]
