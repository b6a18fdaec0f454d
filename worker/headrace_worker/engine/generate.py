"""GenerateEngine: continuous batching of text generation, one step at a time."""

from typing import Protocol

from headrace_worker.schedule.plan import Plan, Sampled, SequenceOutput
from headrace_worker.schedule.request import Request
from headrace_worker.schedule.scheduler import Room, Scheduler, SchedulerStats


class Runner(Protocol):
    """Whatever turns a plan into tokens: a model, or a simulation of one."""

    def execute(self, plan: Plan) -> Sampled:
        """Compute every slice of ``plan``; one sampled token for each slice that samples, in order."""


class GenerateEngine:
    """A scheduler and a runner. Not thread-safe: one thread owns it."""

    def __init__(self, scheduler: Scheduler, runner: Runner) -> None:
        self._scheduler = scheduler
        self._runner = runner

    def add(self, request: Request) -> None:
        """Take a request in. Raises ValueError when it can never run here."""
        self._scheduler.add(request)

    def abort(self, request_id: str) -> None:
        """Forget a request and free its blocks."""
        self._scheduler.abort(request_id)

    def finish(self, request_id: str, choice: int) -> None:
        """End one choice early, as if it had met its end-of-text token."""
        self._scheduler.finish(request_id, choice)

    def step(self) -> list[SequenceOutput]:
        """Compute one batch; empty when there is nothing to do."""
        plan = self._scheduler.plan()
        if not plan.slices:
            return []
        sampled = self._runner.execute(plan)
        return self._scheduler.commit(plan, sampled)

    def has_work(self) -> bool:
        return self._scheduler.has_work()

    def room(self) -> Room:
        return self._scheduler.room()

    def stats(self) -> SchedulerStats:
        return self._scheduler.stats()
