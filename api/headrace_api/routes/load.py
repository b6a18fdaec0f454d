"""GET /load: how busy this process is."""

from fastapi import APIRouter
from starlette.responses import Response

from headrace_api.deps import ServicesDep, json_answer
from headrace_api.routes.documented import answers
from headrace_api.schemas.health import ServerLoad

router = APIRouter(tags=["health"])


@router.get("/load", summary="Requests in hand", responses=answers(ServerLoad, failures=(401,)))
async def load(services: ServicesDep) -> Response:
    """Not with ``--no-enable-server-load-tracking``."""
    return json_answer(ServerLoad(services.metrics.generations_in_hand()))
