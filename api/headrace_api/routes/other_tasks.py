"""Endpoints for what no model here does yet: refused by name, so that nobody takes them for a wrong path."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic_core import from_json

from headrace_api.deps import ServicesDep
from headrace_shared.errors import InvalidRequestError

router = APIRouter(include_in_schema=False)

TASKS = {
    "/v1/embeddings": "make embeddings",
    "/v2/embed": "make embeddings",
    "/pooling": "pool its hidden states",
    "/classify": "classify",
    "/score": "score pairs of texts",
    "/v1/score": "score pairs of texts",
    "/rerank": "rank documents",
    "/v1/rerank": "rank documents",
    "/v2/rerank": "rank documents",
    "/generative_scoring": "score labels",
    "/v1/audio/transcriptions": "transcribe speech",
    "/v1/audio/translations": "translate speech",
    "/v1/audio/speech": "speak",
    "/v1/images/generations": "draw",
}


async def _refuse(request: Request, services: ServicesDep) -> None:
    """A 404 for a model that is not served, a 400 that says what a served one does."""
    path = request.scope["route"].path
    card = services.directory.resolve(_model_named(await request.body())).card
    raise InvalidRequestError(
        f"{path} is not possible: the model {card.name!r} generates text, it does not {TASKS[path]}; "
        "ask it at /v1/chat/completions or /v1/completions.",
        param="model",
    )


def _model_named(body: bytes) -> str | None:
    try:
        fields: Any = from_json(body)
    except ValueError:
        return None  # a form with a file; whatever else it says, it is refused
    name = fields.get("model") if isinstance(fields, dict) else None
    return name if isinstance(name, str) else None


for _path in TASKS:
    router.add_api_route(_path, _refuse, methods=["POST"])
