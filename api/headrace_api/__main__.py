"""``python -m headrace_api``: one API process."""

import uvicorn

from headrace_api.app import create_app
from headrace_api.settings import ApiSettings
from headrace_shared.settings import RedisSettings
from headrace_shared.telemetry.logs import setup_logging


def serve(settings: ApiSettings, redis: RedisSettings | None = None) -> None:
    """Run until SIGINT or SIGTERM; running requests then have ``shutdown_grace_s`` to finish."""
    setup_logging(settings.log_level, settings.log_format)
    config = uvicorn.Config(
        create_app(settings, redis),
        host=settings.host,
        port=settings.port,
        uds=settings.uds,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_grace_s,
    )
    uvicorn.Server(config).run()


if __name__ == "__main__":
    serve(ApiSettings())
