"""HEAD, POST /api/blobs/:digest"""

import re
from typing import Final

from starlette.responses import Response

from libs.common.errors import InvalidRequest, NotFound
from services.gateway.api.door import Call
from services.gateway.api.v2.seen import names_seen

_DIGEST: Final = re.compile(r"sha256[:-][0-9a-fA-F]{64}")


def check_digest(digest: str) -> None:
    """Raises ``InvalidRequest``."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidRequest("invalid digest format")


async def is_there(call: Call) -> Response:
    if call.caller.models and not await names_seen(call, call.scope["path_params"]["digest"]):
        raise NotFound
    async with await call.ctx.registry_http.ask("HEAD", _path(call)):
        return Response()


async def upload(call: Call) -> Response:
    """201 once it is stored; 200 if it was already, its body unread; but who may not know of every blob sends it."""
    length = call.headers.get("content-length")
    headers = {} if length is None else {"Content-Length": length}
    query = "anew=true" if call.caller.models else ""
    path, ask = _path(call), call.ctx.registry_http.ask
    async with await ask("POST", path, query=query, headers=headers, body=call.body) as answer:
        return Response(status_code=answer.status)


def _path(call: Call) -> str:
    digest = call.scope["path_params"]["digest"]
    check_digest(digest)
    return f"/blobs/{digest}"
