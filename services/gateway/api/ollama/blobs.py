"""HEAD, POST /api/blobs/:digest"""

import re
from typing import Final

from starlette.responses import Response

from libs.common.errors import InvalidRequest
from services.gateway.api.door import Call

_DIGEST: Final = re.compile(r"sha256[:-][0-9a-fA-F]{64}")


def check_digest(digest: str) -> None:
    """Raises ``InvalidRequest``."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidRequest("invalid digest format")


async def is_there(call: Call) -> Response:
    async with await call.ctx.registry_http.ask("HEAD", _path(call)):
        return Response()


async def upload(call: Call) -> Response:
    """201 once it is stored; 200 if it was already, its body unread."""
    length = call.headers.get("content-length")
    headers = {} if length is None else {"Content-Length": length}
    async with await call.ctx.registry_http.ask("POST", _path(call), headers=headers, body=call.body) as answer:
        return Response(status_code=answer.status)


def _path(call: Call) -> str:
    digest = call.scope["path_params"]["digest"]
    check_digest(digest)
    return f"/blobs/{digest}"
