"""GET /autoscale/{model}: for autoscalers, such as KEDA's metrics-api scaler."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from headrace_api.deps import ServicesDep, json_answer
from headrace_api.operations import autoscale as operations
from headrace_api.routes.documented import answers
from headrace_api.schemas.autoscale import ScaleSignals

router = APIRouter(tags=["models"])
_Seconds = Annotated[float, Query(gt=0, le=86_400, description="Within which time the backlog is to be served.")]
_Least = Annotated[int, Query(ge=0, description="Least desired_workers.")]
_Most = Annotated[int | None, Query(ge=1, description="Most desired_workers.")]


@router.get(
    "/autoscale/{model:path}",
    summary="How many workers a model needs",
    responses=answers(ScaleSignals, failures=(400, 401, 404, 503)),
)
async def show_scale_signals(
    model: str, services: ServicesDep, target_drain_s: _Seconds = 30.0, min: _Least = 1, max: _Most = None
) -> Response:
    """``desired_workers`` is as many as the running requests fill and as many as serve what waits in time, together."""
    return json_answer(await operations.signals(model, target_drain_s, min, max, services))
