"""Errors in OpenAI's shape, which its SDKs turn into exceptions by their status, and the headers of its answers."""

import math
from typing import Any, Final

from starlette.responses import Response

from libs.common.errors import InvalidModelName, InvalidRequest, ModelNotFound, ServiceError
from services.gateway.api import limit_headers
from services.gateway.api.door import Dialect, Told
from services.gateway.api.ollama.wire import JsonAnswer
from services.gateway.limits import LimitReached

_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
}
_CODES: Final = {
    "context_exceeded": "context_length_exceeded",
    "unauthenticated": "invalid_api_key",
    "rate_limited": "rate_limit_exceeded",
}
"""What programs look for; other errors keep the codes that they have everywhere here."""

QUOTA: Final = "insufficient_quota"


def error_body(error: ServiceError) -> dict[str, Any]:
    code, kind = _CODES.get(error.code, error.code), _TYPES.get(error.status, "api_error")
    if isinstance(error, LimitReached) and error.of_a_day_or_month:
        code = kind = QUOTA
    return {"error": {"message": error.message, "type": kind, "param": _param(error), "code": code}}


def _param(error: ServiceError) -> str | None:
    if isinstance(error, ModelNotFound | InvalidModelName):
        return "model"
    return error.param if isinstance(error, InvalidRequest) else None


def render_error(error: ServiceError, _request_id: str) -> Response:
    exactly = {} if error.retry_after is None else {"retry-after-ms": str(math.ceil(error.retry_after * 1000))}
    return JsonAnswer(error_body(error), error.status, exactly)


def headers(told: Told) -> dict[str, str]:
    return {
        "openai-version": "2020-10-01",
        "openai-processing-ms": str(math.ceil(told.seconds * 1000)),
        **limit_headers.openai(told.limits),
    }


OPENAI: Final = Dialect(render_error, headers, missing_body="EOF")
