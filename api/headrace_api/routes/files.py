"""/v1/files: what batches read and write."""

from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from headrace_api.deps import ServicesDep, call_of, json_answer
from headrace_api.operations import files as operations
from headrace_api.routes.documented import answers
from headrace_api.schemas.files import DeletedFile, FileList, FileObject
from headrace_shared.queue.pages import Page

router = APIRouter(tags=["files"])
_FAILURES = (400, 401, 404, 500, 503)
_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"enum": ["batch", "user_data"]},
                        "expires_after[anchor]": {"enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2_592_000},
                    },
                }
            }
        },
    }
}


@router.post(
    "/v1/files",
    summary="Upload a file",
    openapi_extra=_FORM,
    responses=answers(FileObject, failures=(400, 401, 413, 415, 500, 503)),
)
async def create_file(request: Request, services: ServicesDep) -> Response:
    """A form with the file and its `purpose`: `batch` for a batch's input, `user_data` for what is only to be kept."""
    content_type = request.headers.get("content-type", "")
    call = call_of(request, services)
    return json_answer(await operations.create(content_type, request.stream(), call, services))


@router.get("/v1/files", summary="List files", responses=answers(FileList, failures=(400, 401, 500, 503)))
async def list_files(
    request: Request,
    services: ServicesDep,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    after: Annotated[str | None, Query(description="The id of the last file known.")] = None,
    purpose: Annotated[str | None, Query(description="Only those with this purpose.")] = None,
) -> Response:
    """One's own alone."""
    page = Page(limit, after, order == "desc")
    return json_answer(await operations.listed(page, purpose, call_of(request, services), services))


@router.get("/v1/files/{file_id}", summary="Show a file", responses=answers(FileObject, failures=_FAILURES))
async def retrieve_file(file_id: str, request: Request, services: ServicesDep) -> Response:
    return json_answer(await operations.retrieve(file_id, call_of(request, services), services))


@router.get(
    "/v1/files/{file_id}/content",
    summary="Download a file",
    responses={
        **answers(FileObject, failures=_FAILURES),
        200: {"description": "What it holds.", "content": {"application/octet-stream": {}}},
    },
)
async def file_content(file_id: str, request: Request, services: ServicesDep) -> Response:
    record, chunks = await operations.content(file_id, call_of(request, services), services)
    headers = {
        "Content-Length": str(record.bytes),
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(record.filename, safe='')}",
    }
    return StreamingResponse(chunks, headers=headers, media_type="application/octet-stream")


@router.delete("/v1/files/{file_id}", summary="Delete a file", responses=answers(DeletedFile, failures=_FAILURES))
async def delete_file(file_id: str, request: Request, services: ServicesDep) -> Response:
    """Not while a batch reads it."""
    return json_answer(await operations.delete(file_id, call_of(request, services), services))
