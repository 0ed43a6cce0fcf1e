"""The protocol's words: its version, and its codes for our errors."""

from collections.abc import Mapping
from typing import Final, Literal

from starlette.responses import JSONResponse, Response

from libs.common.errors import ServiceError

Kind = Literal["base", "manifest", "tags", "upload", "blob"]
"""What a path is about."""

VERSION: Final = {"Docker-Distribution-Api-Version": "registry/2.0"}
CHALLENGE: Final = {"WWW-Authenticate": 'Basic realm="OllamaMax"'}

_BY_ERROR: Final = {
    "unauthenticated": "UNAUTHORIZED",
    "forbidden": "DENIED",
    "invalid_model_name": "NAME_INVALID",
    "too_large": "SIZE_INVALID",
    "overloaded": "TOOMANYREQUESTS",
    "rate_limited": "TOOMANYREQUESTS",
}
_BY_KIND: Final[Mapping[Kind, Mapping[int, str]]] = {
    "base": {},
    "manifest": {400: "MANIFEST_INVALID", 404: "MANIFEST_UNKNOWN"},
    "tags": {404: "NAME_UNKNOWN"},
    "upload": {
        400: "DIGEST_INVALID",
        404: "BLOB_UPLOAD_UNKNOWN",
        409: "BLOB_UPLOAD_INVALID",
        416: "BLOB_UPLOAD_INVALID",
    },
    "blob": {400: "DIGEST_INVALID", 404: "BLOB_UNKNOWN"},
}


def render_error(kind: Kind, error: ServiceError, _request_id: str) -> Response:
    code = _BY_ERROR.get(error.code) or _BY_KIND[kind].get(error.status, "UNKNOWN")
    headers = {**VERSION, **(CHALLENGE if error.status == 401 else {})}
    return JSONResponse({"errors": [{"code": code, "message": error.message}]}, error.status, headers)
