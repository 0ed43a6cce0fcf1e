"""Errors in OpenAI's shape, which its SDKs turn into exceptions by their status."""

from typing import Any, Final

from starlette.responses import Response

from libs.common.errors import ModelNotFound, ServiceError
from services.gateway.api.door import Dialect
from services.gateway.api.ollama.wire import JsonAnswer

_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}


def error_body(error: ServiceError) -> dict[str, Any]:
    kind = _TYPES.get(error.status, "api_error")
    param = "model" if isinstance(error, ModelNotFound) else None
    return {"error": {"message": error.message, "type": kind, "param": param, "code": error.code}}


def render_error(error: ServiceError, _request_id: str) -> Response:
    return JsonAnswer(error_body(error), error.status)


OPENAI: Final = Dialect(render_error)
