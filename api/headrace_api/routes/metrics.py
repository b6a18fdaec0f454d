"""GET /metrics, and where the workers have theirs."""

from urllib.parse import urlsplit

from fastapi import APIRouter
from starlette.responses import Response

from headrace_api.deps import ServicesDep, json_answer
from headrace_api.routes.documented import answers
from headrace_api.schemas.health import ScrapeTarget
from headrace_shared.telemetry.exposition import CONTENT_TYPE

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    responses={
        200: {"description": "Text exposition format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    },
    response_class=Response,
)
async def metrics(services: ServicesDep) -> Response:
    return Response(services.exposition.text(), headers={"Content-Type": CONTENT_TYPE})


@router.get(
    "/metrics/targets", summary="Workers to scrape", responses=answers(ScrapeTarget, several=True, failures=(401,))
)
async def targets(services: ServicesDep) -> Response:
    """For Prometheus' `http_sd_configs`: every worker that shows its metrics."""
    models = {listed.model.card.digest: listed for listed in services.directory.listed()}
    found = [
        ScrapeTarget([urlsplit(worker.metrics_url).netloc], {"__meta_headrace_model": listed.model.card.name})
        for listed in models.values()
        for worker in listed.workers
        if worker.metrics_url
    ]
    return json_answer(found)
