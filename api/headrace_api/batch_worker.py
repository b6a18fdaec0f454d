"""``python -m headrace_api.batch_worker``: one batch worker, configured by the environment as an API node is.

Exit status as that of ``python -m headrace_api``.
"""

import asyncio
import contextlib
import logging
import signal
import sys

import uvloop
from pydantic import ValidationError
from pydantic_settings.exceptions import SettingsError

from headrace_api.app import serving
from headrace_api.batches.shown import PortError, shown
from headrace_api.batches.worker import BatchWorker
from headrace_api.settings import ApiSettings
from headrace_shared.parse.tools.plugin import ToolParserPluginError, load_tool_parser_plugin
from headrace_shared.settings import QueueSettings, RedisSettings
from headrace_shared.settings_report import problems_of
from headrace_shared.telemetry.logs import setup_logging

log = logging.getLogger(__name__)

SERVICE = "headrace-batch-worker"


def main() -> int:
    try:
        settings, redis, queue = ApiSettings(), RedisSettings(), QueueSettings()
    except (ValidationError, SettingsError) as error:
        sys.stderr.write("".join(f"headrace batch-worker: error: {problem}\n" for problem in problems_of(error)))
        return 2
    setup_logging(settings.log_level, settings.log_format, settings.secrets)
    # The one would tell every tick of its clock, the other the addresses of receivers.
    for name in ("arq", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if settings.tool_parser_plugin is not None:
        try:
            load_tool_parser_plugin(settings.tool_parser_plugin)
        except ToolParserPluginError as error:
            sys.stderr.write(f"headrace batch-worker: error: {error}\n")
            return 2
    try:
        uvloop.run(_serve(settings, redis, queue))
    except PortError as error:
        sys.stderr.write(f"headrace batch-worker: error: {error}\n")
        return 2
    return 0


async def _serve(settings: ApiSettings, redis: RedisSettings, queue: QueueSettings) -> None:
    stopped = asyncio.Event()
    for stop in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(stop, stopped.set)
    async with serving(SERVICE, settings, redis, queue) as services:
        worker = BatchWorker(services)
        async with shown(worker, services):
            log.info("batch worker is ready")
            work = asyncio.create_task(worker.run())
            await stopped.wait()
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work


if __name__ == "__main__":
    sys.exit(main())
