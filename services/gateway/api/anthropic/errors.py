"""Errors in Anthropic's shape, which its SDKs turn into exceptions by their status, and the headers of its answers."""

from typing import Any, Final

from starlette.responses import Response

from libs.common.errors import Overloaded, ServiceError
from services.gateway.api import limit_headers
from services.gateway.api.door import Dialect, Told
from services.gateway.api.ollama.wire import JsonAnswer

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}

BUSY_STATUS: Final = 529
"""No status of HTTP: Anthropic's own, by which its clients know that trying again soon helps."""


def error_body(error: ServiceError, request_id: str) -> dict[str, Any]:
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {
        "type": "error",
        "error": {"type": kind, "message": error.message},
        "request_id": shown_request_id(request_id),
    }


def render_error(error: ServiceError, request_id: str) -> Response:
    status = BUSY_STATUS if isinstance(error, Overloaded) else error.status
    return JsonAnswer(error_body(error, request_id), status)


def headers(told: Told) -> dict[str, str]:
    return {"request-id": shown_request_id(told.request_id), **limit_headers.anthropic(told.limits)}


def shown_request_id(request_id: str) -> str:
    return f"req_{request_id}"


ANTHROPIC: Final = Dialect(render_error, headers, missing_body="EOF")
