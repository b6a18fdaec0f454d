"""``python -m headrace_api``: one API process, configured by the environment.

Exit status: 0 after a clean stop, 2 when the settings are at fault (starting again will not
help), 1 for anything else, such as a port that is taken.
"""

import asyncio
import signal
import sys

import uvicorn
from pydantic import ValidationError
from pydantic_settings.exceptions import SettingsError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from headrace_api.app import create_app
from headrace_api.drain import Drain
from headrace_api.listening import shared_sockets
from headrace_api.settings import ApiSettings
from headrace_api.tls import FreshTls
from headrace_shared.parse.tools.plugin import ToolParserPluginError, load_tool_parser_plugin
from headrace_shared.settings import QueueSettings, RedisSettings
from headrace_shared.settings_report import problems_of
from headrace_shared.telemetry.logs import setup_logging
from headrace_shared.telemetry.multiprocess import take_share

_TICKS_PER_TLS_REFRESH = 10
_KEEP_ALIVE_S = 75
"""Longer than clients keep an idle connection (5 s in httpx, uvicorn's own default too; 60 s in many balancers): who
closes first must be the client, or a request is lost that it sends at that moment."""


def main() -> int:
    try:
        settings, redis, queue = ApiSettings(), RedisSettings(), QueueSettings()
    except (ValidationError, SettingsError) as error:
        sys.stderr.write("".join(f"headrace api: error: {problem}\n" for problem in problems_of(error)))
        return 2
    setup_logging(settings.log_level, settings.log_format, settings.secrets)
    if settings.tool_parser_plugin is not None:
        try:
            load_tool_parser_plugin(settings.tool_parser_plugin)
        except ToolParserPluginError as error:
            sys.stderr.write(f"headrace api: error: {error}\n")
            return 2
    try:
        sockets = shared_sockets(settings.host, settings.port) if settings.server_count > 1 else None
    except OSError as error:
        sys.stderr.write(f"headrace api: error: cannot listen on {settings.host}:{settings.port}: {error.strerror}\n")
        return 1
    take_share()
    # uvicorn raises the signal that stopped it once more when it has ended; that shall count as a clean end.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda *_: sys.exit(0))
    server = Server(settings, redis, queue)
    server.run(sockets)
    return 0 if server.started else 1


class PromptWriter(HttpToolsProtocol):
    """Writes at once what uvloop would keep until everybody has had a turn: streams that step together wait less."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # With TLS, uvloop would then stop the writer at the first byte and never let it go on.
        if transport.get_extra_info("sslcontext") is None:
            transport.set_write_buffer_limits(high=0)


class Server(uvicorn.Server):
    """uvicorn that says so before it stops: balancers need a moment to notice."""

    def __init__(self, settings: ApiSettings, redis: RedisSettings, queue: QueueSettings) -> None:
        self._drain = Drain()
        self._drain_delay_s = settings.drain_delay_s
        tls = FreshTls(settings.tls) if settings.tls else None
        self._tls = tls if settings.enable_ssl_refresh else None
        # Logs and access lines are ours.
        config = uvicorn.Config(
            create_app(settings, redis, queue, self._drain),
            host=settings.host,
            port=settings.port,
            uds=settings.uds,
            loop="uvloop",
            http=PromptWriter,
            ws="none",
            lifespan="on",
            ssl_context_factory=(lambda *_: tls.listening) if tls else None,
            log_config=None,
            log_level=settings.uvicorn_log_level,
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=settings.shutdown_grace_s,
        )
        super().__init__(config)

    async def on_tick(self, counter: int) -> bool:
        """Whether it is time to accept no more; asked ten times a second."""
        if self._tls is not None and counter % _TICKS_PER_TLS_REFRESH == 0:
            self._tls.refresh()
        asked_to = await super().on_tick(counter)
        if asked_to:
            self._drain.begin()
        return asked_to and (self.force_exit or self._drain.lasts(self._drain_delay_s))


if __name__ == "__main__":
    sys.exit(main())
