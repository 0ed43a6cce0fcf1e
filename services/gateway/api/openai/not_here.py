"""What OpenAI has and no engine here: refused without reading the body, whatever its size."""

from typing import Final

from starlette.responses import Response

from libs.common.errors import UnsupportedByModel
from services.gateway.api.door import Call

PATHS: Final = {
    "/v1/audio/transcriptions": "hears speech",
    "/v1/audio/translations": "hears speech",
    "/v1/audio/speech": "speaks",
    "/v1/images/generations": "makes images",
    "/v1/images/edits": "makes images",
    "/v1/images/variations": "makes images",
}
"""And what it takes an engine for."""


async def refuse(call: Call) -> Response:
    path = call.scope["path"]
    raise UnsupportedByModel(f"{path} is not supported: no engine of this server {PATHS[path]}")
