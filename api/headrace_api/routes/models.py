"""GET /v1/models and GET /v1/models/{id}."""

from fastapi import APIRouter
from msgspec import UNSET
from starlette.responses import Response

from headrace_api.deps import ServicesDep, json_answer
from headrace_api.directory import ListedModel
from headrace_api.routes.documented import answers
from headrace_api.schemas.models import ConflictingCard, Model, ModelList, ModelPermission

router = APIRouter(tags=["models"])


@router.get("/v1/models", summary="List the models", responses=answers(ModelList, failures=(401,)))
async def list_models(services: ServicesDep) -> Response:
    return json_answer(ModelList(data=[_model(listed) for listed in services.directory.listed()]))


@router.get(
    "/v1/models/{model_id:path}", summary="Describe a model", responses=answers(Model, failures=(401, 404, 503))
)
async def retrieve_model(model_id: str, services: ServicesDep) -> Response:
    """Ids may hold slashes."""
    return json_answer(_model(services.directory.find(model_id)))


def _model(listed: ListedModel) -> Model:
    card = listed.model.card
    return Model(
        id=listed.name,
        created=listed.created_s,
        root=card.root or card.name,
        max_model_len=card.max_model_len,
        permission=[ModelPermission(id=f"modelperm-{card.digest}", created=listed.created_s)],
        conflicts=[ConflictingCard(each.card_digest, each.workers, each.chosen) for each in listed.conflict] or UNSET,
    )
