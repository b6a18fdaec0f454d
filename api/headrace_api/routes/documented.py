"""How routes describe bodies that the framework does not parse: references into the document's components."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from headrace_api.schemas.base import RequestModel

_FAILURES = {
    400: "The request breaks a rule; the message names each parameter at fault.",
    401: "The API key is missing or not accepted.",
    404: "There is no such model, or no such request.",
    409: "The idempotency key was used with another body.",
    413: "The body is too large.",
    415: "The body is not called JSON.",
    429: "The queue is full, or the client's rate is used up; Retry-After says when to come back.",
    500: "The server failed.",
    503: "Redis, or every worker of the model, is away for the moment.",
    504: "The request was not finished in time.",
}
_OVERLOADED = {529: "The queue is full; Retry-After says when to come back."}


def takes(*models: type[RequestModel]) -> dict[str, Any]:
    """``openapi_extra`` of a route that reads one of ``models``."""
    schema = _one_of(models)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def answers(
    *structs: type[msgspec.Struct],
    stream: bool = False,
    several: bool = False,
    failures: Iterable[int] = (400, 401, 413, 415, 500, 503),
    error: str = "ErrorBody",
) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route that answers with one of ``structs``, a list when ``several``, or events when ``stream``."""
    one: dict[str, Any] = _one_of(structs)
    content: dict[str, Any] = {"application/json": {"schema": {"type": "array", "items": one} if several else one}}
    if stream:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    failed = {"application/json": {"schema": _reference(error)}}
    return {
        200: {"description": "The answer.", "content": content},
        **{status: {"description": (_FAILURES | _OVERLOADED)[status], "content": failed} for status in failures},
    }


def events(*, failures: Iterable[int]) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route that answers with events alone."""
    documented = answers(msgspec.Struct, failures=failures)
    documented[200]["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
    return documented


GENERATION_FAILURES = tuple(_FAILURES)


def _one_of(types: Sequence[type]) -> dict[str, Any]:
    references = [_reference(each.__name__) for each in types]
    return references[0] if len(references) == 1 else {"anyOf": references}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
