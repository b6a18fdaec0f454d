"""create_app: the one place where an API process is wired together."""

import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from headrace_api.auth import ApiKeys, BearerAuth
from headrace_api.backlogs import BacklogGauges
from headrace_api.directory import ModelDirectory
from headrace_api.dispatch import Dispatcher
from headrace_api.drain import Drain
from headrace_api.errors import on_headrace_error, on_http_exception, on_validation_error
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
from headrace_api.tenants import NOBODY, Caller, TenantLimits
from headrace_shared.errors import HeadraceError
from headrace_shared.queue.blobs import BlobStore
from headrace_shared.queue.client import connect
from headrace_shared.queue.hub import StreamHub
from headrace_shared.queue.presence import Presence
from headrace_shared.queue.rates import Rates
from headrace_shared.queue.requests import QueueLimits, RequestQueue
from headrace_shared.queue.server_check import checking_server
from headrace_shared.settings import QueueSettings, RedisSettings

CLIENT_CLOSED_REQUEST = 499


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
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _services(settings, redis, limits, metrics, drain) as app.state.services:
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
    _add_middleware(app, settings, keys, metrics)
    return app


def _add_middleware(app: FastAPI, settings: ApiSettings, keys: ApiKeys, metrics: Metrics) -> None:
    """The one added last is the outermost."""
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
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
        metrics=metrics,
        echo_id=settings.enable_request_id_headers,
        access_log=settings.access_log,
    )


@asynccontextmanager
async def _services(
    settings: ApiSettings, redis_settings: RedisSettings, limits: QueueLimits, metrics: Metrics, drain: Drain
) -> AsyncIterator[Services]:
    """Started in this order, and closed in the opposite one."""
    async with AsyncExitStack() as stack:
        redis = connect(redis_settings)
        stack.push_async_callback(redis.aclose)
        await stack.enter_async_context(checking_server(redis))
        tokenizers = TokenizerPool(settings.tokenizer_threads)
        stack.callback(tokenizers.close)
        grammars = GrammarChecker(settings.max_grammar_bytes, settings.grammar_timeout_s)
        stack.callback(grammars.close)
        directory = ModelDirectory(Presence(redis), BlobStore(redis), metrics)
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
        gauges = BacklogGauges(queue, directory, metrics)
        stack.push_async_callback(gauges.close)
        await gauges.start()
        yield Services(
            settings=settings,
            metrics=metrics,
            directory=directory,
            dispatcher=dispatcher,
            queue=queue,
            tokenizers=tokenizers,
            grammars=grammars,
            limiter=RateLimiter(Rates(redis)),
            followers=followers,
            drain=drain,
            anyone=Caller(NOBODY, TenantLimits.of_settings(settings)),
        )


async def _on_client_gone(_request: Request, _error: Exception) -> Response:
    """Nobody reads it; the status is for the log."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)
