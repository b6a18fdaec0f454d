"""A real worker with the simulated engine that dies in the step that computes a request with a deadly seed."""

import os
import signal

from headrace_worker.__main__ import main
from headrace_worker.engine.simulate import SimulatedRunner
from headrace_worker.schedule.plan import Plan, Sampled

DEADLY_SEED = 666


def die_of_poison() -> None:
    execute = SimulatedRunner.execute

    def mortal(runner: SimulatedRunner, plan: Plan) -> Sampled:
        if any(part.sequence.sampling.seed == DEADLY_SEED for part in plan.slices):
            os.kill(os.getpid(), signal.SIGKILL)
        return execute(runner, plan)

    SimulatedRunner.execute = mortal  # type: ignore[method-assign]


if __name__ == "__main__":
    die_of_poison()
    raise SystemExit(main())
