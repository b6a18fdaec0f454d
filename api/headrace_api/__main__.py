"""``python -m headrace_api``: one API process, configured by the environment.

Exit status: 0 after a clean stop, 2 when the settings are at fault (starting again will not
help), 1 for anything else, such as a port that is taken.
"""

import signal
import sys

import uvicorn
from pydantic import ValidationError

from headrace_api.app import create_app
from headrace_api.settings import ApiSettings
from headrace_shared.settings import QueueSettings, RedisSettings
from headrace_shared.telemetry.logs import setup_logging


def main() -> int:
    try:
        settings, redis, queue = ApiSettings(), RedisSettings(), QueueSettings()
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(str(part) for part in problem["loc"])
            sys.stderr.write(f"headrace api: error: {name}: {problem['msg']}\n")
        return 2
    setup_logging(settings.log_level, settings.log_format)
    # uvicorn raises the signal that stopped it once more when it has ended; that shall count as a clean end.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda *_: sys.exit(0))
    server = uvicorn.Server(server_config(settings, redis, queue))
    server.run()
    return 0 if server.started else 1


def server_config(settings: ApiSettings, redis: RedisSettings, queue: QueueSettings) -> uvicorn.Config:
    """How uvicorn runs the application: logs and access lines are ours, signals are its own."""
    return uvicorn.Config(
        create_app(settings, redis, queue),
        host=settings.host,
        port=settings.port,
        uds=settings.uds,
        root_path=settings.root_path,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_grace_s,
    )


if __name__ == "__main__":
    sys.exit(main())
