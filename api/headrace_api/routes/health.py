"""Is this process alive, is it of use, and which version is it? Open without a key."""

from importlib.metadata import version

from fastapi import APIRouter
from starlette.responses import Response

from headrace_api.deps import ServicesDep, json_answer
from headrace_api.directory import ListedModel
from headrace_api.routes.documented import answers
from headrace_api.schemas.health import Readiness, ReadyModel, Version, WorkerLoad

router = APIRouter(tags=["health"])
_VERSION = Version(version("headrace"))


@router.get("/health", summary="Alive", response_class=Response)
@router.get("/ping", summary="Alive", response_class=Response)
@router.post("/ping", summary="Alive", response_class=Response)
async def health() -> Response:
    """This process answers; says nothing of Redis or the workers."""
    return Response()


@router.get(
    "/ready",
    summary="Able to serve a model",
    responses={
        **answers(Readiness, failures=()),
        503: {**answers(Readiness, failures=())[200], "description": "Not yet, or not any more: ``missing`` says why."},
    },
)
async def ready(services: ServicesDep) -> Response:
    state = services.directory.state()
    draining = services.drain.begun
    able = state.redis and bool(state.models) and not draining
    readiness = Readiness(
        ready=able,
        redis=state.redis,
        models=[_ready_model(listed) for listed in state.models],
        missing=[*state.missing, *(["this node is draining"] if draining else [])],
        conflicts=[listed.name for listed in state.models if listed.conflict],
        draining=draining,
    )
    return json_answer(readiness, {} if able else {"Retry-After": "1"}, 200 if able else 503)


@router.get("/version", summary="Version", responses=answers(Version, failures=()))
async def show_version() -> Response:
    return json_answer(_VERSION)


def _ready_model(listed: ListedModel) -> ReadyModel:
    workers = [
        WorkerLoad(worker.state, worker.kv_blocks_total, worker.kv_blocks_free, worker.running, worker.waiting)
        for worker in listed.workers
    ]
    return ReadyModel(listed.name, listed.model.card.max_model_len, workers)
