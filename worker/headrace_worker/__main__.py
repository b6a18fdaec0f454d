"""``python -m headrace_worker``: one worker process, configured by the environment.

Exit status: 0 after a clean stop, 2 when the settings or the model are at fault (starting again
will not help), 1 for anything else.
"""

import os
import sys

import uvloop
from pydantic import ValidationError
from pydantic_settings.exceptions import SettingsError

from headrace_shared.settings import RedisSettings, TracingSettings
from headrace_shared.settings_report import problems_of
from headrace_shared.telemetry.logs import setup_logging
from headrace_worker.cpus import CpuBindingError, bind_to
from headrace_worker.engine.build import EngineSetupError
from headrace_worker.service.worker import EngineCrashedError, Worker
from headrace_worker.settings import WorkerSettings

_SWITCH_INTERVAL_S = 0.0005
"""How long the event loop may wait for the engine thread's Python; the default is 5 ms, for each hand-over."""


def main() -> int:
    try:
        settings = WorkerSettings()
        redis_settings = RedisSettings()
    except (ValidationError, SettingsError) as error:
        sys.stderr.write("".join(f"headrace worker: error: {problem}\n" for problem in problems_of(error)))
        return 2
    if settings.collect_detailed_traces and not TracingSettings().enabled:
        sys.stderr.write("headrace worker: error: collect_detailed_traces: wants a collector: --otlp-traces-endpoint\n")
        return 2
    setup_logging(settings.log_level, settings.log_format)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    # Idle compute threads that spin take the cores from the event loop, the API and Redis. OpenMP reads this
    # when torch is imported, which happens later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # noqa: TID251 it is written here, not read
    try:
        if settings.cpu_affinity is not None:
            # Before any thread is started: each has the CPUs of whoever started it.
            bind_to(settings.cpu_affinity)
        uvloop.run(_serve(settings, redis_settings))
    except CpuBindingError as error:
        sys.stderr.write(f"headrace worker: error: cpu_affinity: {error}\n")
        return 2
    except EngineSetupError as error:
        sys.stderr.write(f"headrace worker: error: {error.message}\n")
        return 2
    except EngineCrashedError as error:
        sys.stderr.write(f"headrace worker: error: {error}\n")
        return 1
    return 0


async def _serve(settings: WorkerSettings, redis_settings: RedisSettings) -> None:
    await Worker(settings, redis_settings).run()


if __name__ == "__main__":
    sys.exit(main())
