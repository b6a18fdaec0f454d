"""GenerateEngine: continuous batching of text generation, one step at a time."""

import threading
from dataclasses import dataclass
from typing import Protocol

from headrace_shared.clock import mono_s
from headrace_worker.schedule.plan import Plan, Sampled, SequenceOutput, Slice, StepGivenUpError
from headrace_worker.schedule.request import Request
from headrace_worker.schedule.room import Room
from headrace_worker.schedule.scheduler import Scheduler, SchedulerStats


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a prompt that a step computed: tokens [start, start + count) of ``request_id``."""

    request_id: str
    start: int
    count: int


@dataclass(frozen=True, slots=True)
class StepFacts:
    """What a step did and how long its parts took; the moments are seconds of the monotonic clock."""

    begun_s: float
    planned_s: float
    executed_s: float
    ended_s: float
    forward_s: float
    """Of the execution, the model's own part."""
    sequences: int
    tokens: int
    slices: list[Slice]
    chunks: list[Chunk]
    preempted: list[str]
    expected_s: float | None = None
    """What the steps before it let expect; None: not enough of them yet."""

    @property
    def request_ids(self) -> frozenset[str]:
        """Those that it computed something of."""
        return frozenset(part.sequence.request_id for part in self.slices)


class Runner(Protocol):
    """Whatever turns a plan into tokens: a model, or a simulation of one."""

    def execute(self, plan: Plan) -> Sampled:
        """Compute every slice of ``plan``; one sampled token for each slice that samples, in order.

        Raises StepGivenUpError when the plan becomes unwanted before that is done.
        """


class GenerateEngine:
    """A scheduler and a runner. Not thread-safe: one thread owns it."""

    def __init__(self, scheduler: Scheduler, runner: Runner) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._facts: StepFacts | None = None
        self._hurry = threading.Event()

    def add(self, request: Request) -> None:
        """Take a request in. Raises ValueError when it can never run here."""
        self._scheduler.add(request)

    def abort(self, request_id: str) -> None:
        """Forget a request and free its blocks."""
        self._scheduler.abort(request_id)

    def finish(self, request_id: str, choice: int) -> None:
        """End one choice early, as if it had met its end-of-text token."""
        self._scheduler.finish(request_id, choice)

    def hurry(self) -> None:
        """Somebody waits to be added: give up the step under way if all of it is background. From any thread."""
        self._hurry.set()

    def calm_down(self) -> None:
        """Whoever waits is about to be added."""
        self._hurry.clear()

    def step(self) -> list[SequenceOutput]:
        """Compute one batch; empty when there is nothing to do, or the step was given up."""
        begun_s = mono_s()
        plan = self._scheduler.plan()
        if not plan.slices:
            return []
        expected_s = self._scheduler.cost.seconds(plan.load)
        if plan.interruptible:
            plan.unwanted = self._hurry.is_set
        planned_s = mono_s()
        # Before the commit: whoever has told nothing yet is still in its prompt.
        chunks = [
            Chunk(part.sequence.request_id, part.start, part.count)
            for part in plan.slices
            if not part.sequence.reported
        ]
        try:
            sampled = self._runner.execute(plan)
        except StepGivenUpError:
            self._scheduler.give_up()
            return []
        executed_s = mono_s()
        outputs = self._scheduler.commit(plan, sampled)
        self._scheduler.cost.note(plan.load, mono_s() - begun_s)
        self._facts = StepFacts(
            begun_s=begun_s,
            planned_s=planned_s,
            executed_s=executed_s,
            ended_s=mono_s(),
            forward_s=sampled.forward_s,
            sequences=len(plan.slices),
            tokens=plan.num_tokens,
            slices=plan.slices,
            chunks=chunks,
            preempted=self._scheduler.take_preempted(),
            expected_s=expected_s,
        )
        return outputs

    def take_facts(self) -> StepFacts | None:
        """Of the last step, once; None when nothing was computed since."""
        facts, self._facts = self._facts, None
        return facts

    def has_work(self) -> bool:
        return self._scheduler.has_work()

    def room(self) -> Room:
        return self._scheduler.room()

    def stats(self) -> SchedulerStats:
        return self._scheduler.stats()
