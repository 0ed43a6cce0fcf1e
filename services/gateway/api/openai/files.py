"""/v1/files"""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final
from urllib.parse import quote

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from libs.common.contracts.auth.identity import Identity
from libs.common.errors import InvalidRequest, ServiceError, Unauthenticated
from services.gateway.api.caller import ANONYMOUS
from services.gateway.api.connection import send_in_time
from services.gateway.api.door import Call
from services.gateway.api.ollama.wire import JsonAnswer
from services.gateway.api.openai.multipart import Part, read_form
from services.gateway.api.openai.queries import read_id, read_limit, read_query
from services.gateway.batches import files
from services.gateway.batches.files import FileWriter
from services.gateway.context import Context
from services.gateway.store.files import File

log = structlog.get_logger(__name__)

PURPOSE: Final = "batch"
LONGEST_FIELD: Final = 1024
MOST_LISTED: Final = 10_000


def known_caller(call: Call) -> Identity:
    """Raises ``Unauthenticated`` for callers without credentials: they would all share what they store."""
    if call.caller.user_id == ANONYMOUS:
        raise Unauthenticated("files and batches need an API key")
    return call.caller


async def upload(call: Call) -> Response:
    caller, fields = known_caller(call), dict[str, str]()
    writer: FileWriter | None = None
    part: Part | None = None
    try:
        async with aclosing(read_form(call.body, call.headers.get("content-type", ""))) as form:
            async for event in form:
                if isinstance(event, bytes):
                    if part is not None and part.filename is not None and writer is not None:
                        await writer.write(event)
                    elif part is not None:
                        _add(fields, part.name, event)
                    continue
                part = event
                if part.filename is not None:
                    if writer is not None or part.name != "file":
                        raise InvalidRequest("send one file, as 'file'")
                    writer = await files.upload(call.ctx, caller, part.filename)
                elif part.name != "purpose":
                    raise InvalidRequest(f"'{part.name[:50]}' is not supported here")
        if writer is None:
            raise InvalidRequest("'file' is required")
        if fields.get("purpose") != PURPOSE:
            raise InvalidRequest(f"'purpose' must be {PURPOSE}")
        return JsonAnswer(shown(await writer.complete()))
    except BaseException:
        if writer is not None:
            call.ctx.tasks.start(files.discard(writer), "discard an upload")
        raise


def _add(fields: dict[str, str], name: str, data: bytes) -> None:
    fields[name] = fields.get(name, "") + data.decode(errors="replace")
    if len(fields[name]) > LONGEST_FIELD:
        raise InvalidRequest(f"'{name[:50]}' is too long")


async def listed(call: Call) -> Response:
    query = read_query(call.scope, {"purpose", "limit", "order", "after"})
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest("'order' must be asc or desc")
    found, more = await files.listed(
        call.ctx,
        known_caller(call),
        query.get("purpose"),
        query.get("after"),
        read_limit(query, MOST_LISTED, MOST_LISTED),
        oldest_first=order == "asc",
    )
    return JsonAnswer(a_list([shown(file) for file in found], more=more))


def a_list(data: list[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more}


async def one(call: Call) -> Response:
    return JsonAnswer(shown(await _find(call)))


async def content(call: Call) -> Response:
    return _Content(call.ctx, await _find(call))


async def delete(call: Call) -> Response:
    file_id = _id(call)
    await files.delete(call.ctx, known_caller(call), file_id)
    return JsonAnswer({"id": file_id, "object": "file", "deleted": True})


async def _find(call: Call) -> File:
    return await files.find(call.ctx, known_caller(call), _id(call))


def _id(call: Call) -> str:
    return read_id(call.scope["path_params"]["file_id"])


def shown(file: File) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created_at),
        "expires_at": int(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


class _Content(Response):
    """As it is read, piece by piece. An answer that ends before its announced length was broken off."""

    media_type = "application/octet-stream"

    def __init__(self, ctx: Context, file: File) -> None:
        name = quote(file.filename, safe="")
        super().__init__(headers={"Content-Disposition": f"attachment; filename*=UTF-8''{name}"})
        self.headers["content-length"] = str(file.bytes)
        self._pieces: AsyncIterator[bytes] = files.content(ctx, file)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send_in_time(self, self._pieces, send)
        except (ServiceError, TimeoutError) as error:
            log.warning("a file's content broke off", reason=repr(error))
