"""GET /metrics."""

from fastapi import APIRouter
from starlette.responses import Response

from headrace_api.deps import ServicesDep
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
