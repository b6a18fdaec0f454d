"""Files: what batches read and write."""

import logging
import secrets
from collections.abc import AsyncIterator

from headrace_api.operations.call import Call
from headrace_api.operations.services import Services
from headrace_api.schemas.files import DeletedFile, FileForm, FileList, FileObject
from headrace_api.upload import Form, read_form
from headrace_shared.clock import wall_s
from headrace_shared.errors import InvalidRequestError, NotFoundError, PayloadTooLargeError
from headrace_shared.queue.file_book import FileRecord, path_of
from headrace_shared.queue.pages import Page

log = logging.getLogger(__name__)

INPUT, OUTPUT, KEPT = "batch", "batch_output", "user_data"
_NOT_HERE = {
    "assistants": "there are no assistants here",
    "fine-tune": "models are not trained here",
    "fine-tune-results": "models are not trained here",
    "vision": "images cannot be given to models here",
    "evals": "there are no evaluations here",
}
"""Purposes that OpenAI knows, and why a file with one of them would be of no use."""
_LONGEST_NAME = 255


async def create(content_type: str, body: AsyncIterator[bytes], call: Call, services: Services) -> FileObject:
    """Take an upload in, while it arrives. Raises InvalidRequestError, PayloadTooLargeError, UnavailableError."""
    file_id = f"file-{secrets.token_hex(12)}"
    await services.files.begin(file_id)
    most = services.settings.max_file_bytes

    async def limited(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            if size > most:
                raise PayloadTooLargeError(f"The file is larger than this server accepts ({most} bytes).")
            yield chunk

    form = await read_form(content_type, body, lambda chunks: services.store.write(path_of(file_id), limited(chunks)))
    kept = False
    try:
        record = _record(file_id, form, call, services)
        await services.files.add(record, call.caller.limits.file_bytes)
        kept = True
    finally:
        if not kept and form.filename is not None:
            await services.store.delete(path_of(file_id))
    return shown(record)


async def retrieve(file_id: str, call: Call, services: Services) -> FileObject:
    """Raises NotFoundError, UnavailableError."""
    return shown(await services.files.get(file_id, call.caller.owner))


async def content(file_id: str, call: Call, services: Services) -> tuple[FileRecord, AsyncIterator[bytes]]:
    """What it holds, in pieces. Raises NotFoundError, UnavailableError."""
    record = await services.files.get(file_id, call.caller.owner)
    return record, services.store.read(record.path)


async def listed(page: Page, purpose: str | None, call: Call, services: Services) -> FileList:
    """One's own files. Raises InvalidRequestError, UnavailableError."""
    records, more = await services.files.listed(call.caller.owner, page, purpose)
    return FileList(
        data=[shown(record) for record in records],
        first_id=records[0].id if records else None,
        last_id=records[-1].id if records else None,
        has_more=more,
    )


async def delete(file_id: str, call: Call, services: Services) -> DeletedFile:
    """Raises NotFoundError, InvalidRequestError while a batch reads it, UnavailableError."""
    record = await services.files.get(file_id, call.caller.owner)
    if not await services.files.remove(record.id):
        raise NotFoundError(f"There is no file {file_id[:80]!r}.")
    await services.store.delete(record.path)
    await services.files.thrown_away(record.path)
    return DeletedFile(id=record.id)


def shown(record: FileRecord) -> FileObject:
    """As clients see it."""
    return FileObject(
        id=record.id,
        bytes=record.bytes,
        created_at=record.created_at,
        expires_at=record.expires_at,
        filename=record.filename,
        purpose=record.purpose,
    )


def _record(file_id: str, form: Form, call: Call, services: Services) -> FileRecord:
    """Raises InvalidRequestError for what is wrong with the form."""
    if form.filename is None:
        raise InvalidRequestError("file: is required, as a file of the form.", param="file")
    if form.bytes == 0:
        raise InvalidRequestError("file: is empty.", param="file")
    fields = FileForm.of(_nested(form.fields))
    if unknown := fields.unknown_fields():
        raise InvalidRequestError(f"{unknown[0][:80]}: is not a field of an upload.", param=unknown[0][:80])
    _check_purpose(fields.purpose, form.filename)
    now_s = wall_s()
    ttl_s = fields.expires_after.seconds if fields.expires_after else services.settings.file_ttl_s
    name = form.filename.replace("\\", "/").rpartition("/")[2][:_LONGEST_NAME]
    return FileRecord(file_id, call.caller.owner, name, fields.purpose, form.bytes, now_s, now_s + ttl_s)


def _nested(fields: dict[str, str]) -> dict[str, object]:
    """``a[b]`` is a field of the object ``a``."""
    found: dict[str, object] = {}
    expires: dict[str, object] = {}
    for name, value in fields.items():
        if name.startswith("expires_after[") and name.endswith("]"):
            inner = name[len("expires_after[") : -1]
            expires[inner] = int(value) if value.isascii() and value.isdigit() and len(value) < 16 else value
        else:
            found[name] = value
    return found | ({"expires_after": expires} if expires else {})


def _check_purpose(purpose: str, filename: str) -> None:
    allowed = f"should be {INPUT}, or {KEPT} for what is only to be kept"
    if purpose in _NOT_HERE:
        raise InvalidRequestError(f"purpose: {allowed}; {_NOT_HERE[purpose]}, got {purpose!r}.", param="purpose")
    if purpose not in (INPUT, KEPT):
        raise InvalidRequestError(f"purpose: {allowed}, got {purpose[:80]!r}.", param="purpose")
    if purpose == INPUT and not filename.lower().endswith(".jsonl"):
        raise InvalidRequestError(
            f"file: for a batch its name should end with .jsonl, got {filename[:80]!r}.", param="file"
        )
