"""create_app: the one place where an API process is wired together."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from headrace_api.auth import ApiKeys, BearerAuth
from headrace_api.console.feed import ConsoleFeed, Sources
from headrace_api.directory import ModelDirectory
from headrace_api.dispatch import Dispatcher
from headrace_api.drain import Drain
from headrace_api.errors import on_headrace_error, on_http_exception, on_validation_error
from headrace_api.fleet_view import FleetGauges, FleetView
from headrace_api.grammar.check import GrammarChecker
from headrace_api.limits import RateLimiter
from headrace_api.metrics import Metrics
from headrace_api.middleware import BodyLimit, RequestContext
from headrace_api.openapi import document
from headrace_api.operations.followers import Followers
from headrace_api.operations.services import Services
from headrace_api.own_middleware import imported
from headrace_api.prompt.build import TokenizerPool
from headrace_api.routes import all_routers, load, tokenizer_info
from headrace_api.settings import ApiSettings
from headrace_api.spans import RequestSpans
from headrace_api.stats_log import StatsLog
from headrace_api.storage import ByteStore
from headrace_api.tenants import NOBODY, Caller, TenantLimits
from headrace_api.timeline import Timelines
from headrace_shared.errors import HeadraceError
from headrace_shared.queue.batch_book import BatchBook
from headrace_shared.queue.batch_jobs import BatchJobs
from headrace_shared.queue.blobs import BlobStore
from headrace_shared.queue.client import connect
from headrace_shared.queue.dead_letters import DeadLetters
from headrace_shared.queue.file_book import FileBook
from headrace_shared.queue.hub import StreamHub
from headrace_shared.queue.nodes import Nodes
from headrace_shared.queue.presence import Presence
from headrace_shared.queue.rates import Rates
from headrace_shared.queue.requests import QueueLimits, RequestQueue
from headrace_shared.queue.server_check import checking_server
from headrace_shared.queue.watch import put_watch
from headrace_shared.queue.webhook_book import WebhookBook
from headrace_shared.settings import QueueSettings, RedisSettings
from headrace_shared.telemetry.exposition import Exposition
from headrace_shared.telemetry.otlp_metrics import pushing_metrics
from headrace_shared.telemetry.tasks import in_background
from headrace_shared.telemetry.tracing import Tracing, setup_tracing

CLIENT_CLOSED_REQUEST = 499
_FORM_BYTES = 1024 * 1024
"""What a form may have besides its file."""

SERVICE = "headrace-api"


@dataclass(frozen=True, slots=True)
class _Telemetry:
    metrics: Metrics
    tracing: Tracing | None

    def spans_below(self, traceparent: str | None, tracestate: str | None) -> RequestSpans:
        return RequestSpans(self.tracing, traceparent, tracestate)

    async def close(self) -> None:
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)


class Headrace(FastAPI):
    """FastAPI with a document that knows our bodies."""

    guarded = False

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = document(self, guarded=self.guarded)
        return self.openapi_schema


def create_app(
    settings: ApiSettings,
    redis: RedisSettings | None = None,
    queue: QueueSettings | None = None,
    drain: Drain | None = None,
) -> FastAPI:
    """The ASGI application. Needs no Redis to be built or to start: it becomes ready when Redis is there.

    ``drain`` is begun by whoever runs the application, when it is to stop.
    """
    drain = drain or Drain()
    redis = redis or RedisSettings()
    limits = QueueLimits.of_settings(queue or QueueSettings())
    telemetry = _Telemetry(Metrics(), setup_tracing(SERVICE))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _services(settings, redis, limits, telemetry, drain) as app.state.services, _console(app):
            gc.freeze()  # what is there by now stays: looking through it again and again would hold up streams
            yield

    app = Headrace(
        title="Headrace",
        version=version("headrace"),
        description="OpenAI-compatible serving of language models.",
        lifespan=lifespan,
        openapi_url="/openapi.json" if settings.fastapi_docs else None,
    )
    keys = ApiKeys.of_settings(settings)
    app.guarded = bool(keys)
    for router in all_routers():
        app.include_router(router)
    if settings.enable_server_load_tracking:
        app.include_router(load.router)
    if settings.enable_tokenizer_info_endpoint:
        app.include_router(tokenizer_info.router)
    app.add_exception_handler(HeadraceError, on_headrace_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(ClientDisconnect, _on_client_gone)
    _add_middleware(app, settings, keys, telemetry)
    return app


def _add_middleware(app: FastAPI, settings: ApiSettings, keys: ApiKeys, telemetry: _Telemetry) -> None:
    """The one added last is the outermost."""
    uploads = {f"{settings.root_path}/v1/files": settings.max_file_bytes + _FORM_BYTES}
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, larger=uploads)
    app.add_middleware(BearerAuth, keys=keys, root_path=settings.root_path)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=settings.allowed_methods,
            allow_headers=settings.allowed_headers,
            allow_credentials=settings.allow_credentials,
        )
    for path in settings.middleware:
        own = imported(path)
        app.add_middleware(own.cls, *own.args, **own.kwargs)
    app.add_middleware(
        RequestContext,
        metrics=telemetry.metrics,
        tracing=telemetry.tracing,
        root_path=settings.root_path,
        echo_id=settings.enable_request_id_headers,
        logs=lambda path: settings.access_log and path not in settings.disable_access_log_for_endpoints,
    )


@asynccontextmanager
async def serving(
    service: str, settings: ApiSettings, redis: RedisSettings, queue: QueueSettings
) -> AsyncIterator[Services]:
    """The services alone, for a process that answers no HTTP; ``service`` is its name in traces."""
    limits = QueueLimits.of_settings(queue)
    async with _services(settings, redis, limits, _Telemetry(Metrics(), setup_tracing(service)), Drain()) as services:
        yield services


@asynccontextmanager
async def _services(
    settings: ApiSettings, redis_settings: RedisSettings, limits: QueueLimits, telemetry: _Telemetry, drain: Drain
) -> AsyncIterator[Services]:
    """Started in this order, and closed in the opposite one."""
    metrics = telemetry.metrics
    async with AsyncExitStack() as stack:
        stack.push_async_callback(telemetry.close)
        stack.callback(metrics.settle)
        redis = connect(redis_settings)
        put_watch(redis, metrics)
        stack.push_async_callback(redis.aclose)
        await stack.enter_async_context(checking_server(redis))
        tokenizers = TokenizerPool(settings.tokenizer_threads)
        stack.callback(tokenizers.close)
        grammars = GrammarChecker(settings.max_grammar_bytes, settings.grammar_timeout_s)
        stack.callback(grammars.close)
        directory = ModelDirectory(Presence(redis), BlobStore(redis))
        stack.push_async_callback(directory.close)
        await directory.start()
        hub = StreamHub(redis)
        stack.push_async_callback(hub.close)
        await hub.start()
        queue = RequestQueue(redis, limits)
        dispatcher = Dispatcher(hub, queue, metrics, directory.has_workers, settings.no_worker_grace_s)
        stack.push_async_callback(dispatcher.close)
        await dispatcher.start()
        followers = Followers()
        stack.push_async_callback(followers.close)
        batches = BatchBook(redis)
        fleet = FleetView(queue, directory, batches)
        stack.push_async_callback(fleet.close)
        await fleet.start()
        exposition = Exposition(
            metrics.registry,
            [Metrics],
            [FleetGauges(fleet)],
            engine_series=settings.log_stats,
            before=metrics.settle,
        )
        await stack.enter_async_context(in_background(metrics.follow_loop()))
        if settings.log_stats:
            await stack.enter_async_context(in_background(StatsLog(metrics, fleet).run()))
        await stack.enter_async_context(pushing_metrics(SERVICE, exposition.collect_own))
        timelines = Timelines(metrics, telemetry.spans_below)
        dead_letters = DeadLetters(redis)
        console = ConsoleFeed(Sources(fleet, timelines, metrics, directory, dead_letters, Nodes(redis), batches), drain)
        yield Services(
            settings=settings,
            metrics=metrics,
            exposition=exposition,
            timelines=timelines,
            directory=directory,
            dispatcher=dispatcher,
            queue=queue,
            tokenizers=tokenizers,
            grammars=grammars,
            limiter=RateLimiter(Rates(redis)),
            followers=followers,
            drain=drain,
            console=console,
            dead_letters=dead_letters,
            files=FileBook(redis),
            store=ByteStore(settings.files),
            batches=batches,
            batch_jobs=BatchJobs(redis),
            webhooks=WebhookBook(redis),
            # Where no key is needed, everybody who gets here may do everything.
            anyone=Caller(NOBODY, TenantLimits.of_settings(settings), admin=not settings.wants_key),
        )


@asynccontextmanager
async def _console(app: FastAPI) -> AsyncIterator[None]:
    """Of processes that answer HTTP: what items of batches wait for says nothing of what users wait for."""
    console: ConsoleFeed = app.state.services.console
    async with in_background(console.tally.run()), in_background(console.run()):
        yield


async def _on_client_gone(_request: Request, _error: Exception) -> Response:
    """Nobody reads it; the status is for the log."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)
