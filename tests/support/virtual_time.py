"""A scheduler on a machine whose time is computed: what requests meet, second for second, in no time."""

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import Any

from headrace_worker.schedule.plan import Plan, Sampled
from headrace_worker.schedule.request import Request
from headrace_worker.schedule.scheduler import Scheduler, SchedulerLimits
from headrace_worker.schedule.step_cost import Load


def seconds_of(load: Load) -> float:
    """About what two cores take for the demo model."""
    return (
        0.022
        + 0.0023 * load.prefill_tokens
        + 0.003 * load.decode_rows
        + 4e-6 * load.decode_context
        + 1e-7 * load.prefill_context
    )


@dataclass
class VirtualMachine:
    """Runs requests that come at given seconds; gives up background steps when somebody else comes."""

    limits: SchedulerLimits
    now_s: float = 0.0
    arrivals: list[tuple[float, Request]] = field(default_factory=list)
    came_s: dict[str, float] = field(default_factory=dict)
    told_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    steps: list[tuple[Plan, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.limits, eos_token_ids=frozenset())

    def run(self, until_s: float) -> None:
        self.arrivals.sort(key=lambda each: each[0])
        while self.now_s < until_s:
            while self.arrivals and self.arrivals[0][0] <= self.now_s:
                at_s, request = self.arrivals.pop(0)
                self.came_s[request.request_id] = at_s
                self.scheduler.add(request)
            if self.scheduler.has_work():
                self._step()
            elif self.arrivals:
                self.now_s = self.arrivals[0][0]
            else:
                return

    def first_tokens_s(self, prefix: str) -> list[float]:
        return [told[0] - self.came_s[name] for name, told in self.told_s.items() if name.startswith(prefix)]

    def gaps_s(self, prefix: str) -> list[float]:
        return [
            later - earlier
            for name, told in self.told_s.items()
            if name.startswith(prefix)
            for earlier, later in pairwise(told)
        ]

    def tokens(self, prefix: str) -> int:
        return sum(len(told) for name, told in self.told_s.items() if name.startswith(prefix))

    def _step(self) -> None:
        plan = self.scheduler.plan()
        seconds = seconds_of(plan.load)
        end_s = self.now_s + seconds
        comes_s = next((at_s for at_s, request in self.arrivals if not request.background), inf)
        if plan.interruptible and comes_s < end_s:
            self.now_s = comes_s
            return
        self.now_s = end_s
        drawn = [part.sequence.num_tokens % 97 for part in plan.slices if part.samples]
        outputs = self.scheduler.commit(plan, Sampled(drawn, [None] * len(drawn)))
        self.scheduler.cost.note(plan.load, seconds)
        self.steps.append((plan, seconds))
        for output in outputs:
            self.told_s[output.request_id] += [end_s] * len(output.token_ids)


def p95(values: list[float]) -> Any:
    return sorted(values)[int(len(values) * 0.95)]
