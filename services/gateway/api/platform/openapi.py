"""The OpenAPI document: what FastAPI knows of the routes, and what their doors tell of callers and refusals."""

import re
from collections.abc import Iterator
from typing import Any, Final

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import RouteContext, iter_route_contexts
from pydantic import BaseModel, Field

from libs.common.contracts.permissions import Permission
from libs.common.errors import (
    Conflict,
    DeadlineExceeded,
    Forbidden,
    InvalidRequest,
    NotFound,
    PreconditionFailed,
    RateLimited,
    ServiceError,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from libs.common.version import VERSION
from services.gateway.api.platform.caller import Needs

PREFIX: Final = "/api/v1"

DESCRIPTION: Final = """\
Log in with `POST /auth/login`, or send an API key: as `Authorization: Bearer`, as `x-api-key`, or as the password of
Basic. Lists come in pages: `next_cursor` of one is `cursor` of the next. What two people could overwrite has an `ETag`;
sent back as `If-Match`, a change fails with 412 if somebody was quicker. What belongs to another organization does not
exist.
"""

SECURITY: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An access token, or an API key."},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "basic": {"type": "http", "scheme": "basic", "description": "Any name; an API key as the password."},
}


class Problem(BaseModel):
    code: str = Field(description="what kind of refusal; does not change between versions", examples=["not_found"])
    message: str = Field(description="for people")
    request_id: str = Field("", description="names the request in our logs")


class Error(BaseModel):
    error: Problem


def document(app: FastAPI) -> dict[str, Any]:
    routes = list(documented(app))
    found = get_openapi(title="OllamaMax", version=VERSION, description=DESCRIPTION, routes=routes)
    schemas = found["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    error = Error.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= error.pop("$defs") | {"Error": error}
    found["components"]["securitySchemes"] = SECURITY
    found["components"]["responses"] = {kind.__name__: _refusal(kind) for kind in _REFUSALS}
    for route in routes:
        for method in route.methods or ():
            _complete(found["paths"][route.path_format][method.lower()], route, method)
    _take_sets_as_lists(found)
    return found


def _take_sets_as_lists(schema: Any) -> None:
    """What is named twice is in a set once: no reason to refuse it, as the document would."""
    if isinstance(schema, dict):
        schema.pop("uniqueItems", None)
    for each in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _take_sets_as_lists(each)


def documented(app: FastAPI) -> Iterator[RouteContext]:
    """The platform's routes, but not those of the document itself."""
    for route in iter_route_contexts(app.routes):
        if (route.path or "").startswith(PREFIX) and route.include_in_schema:
            yield route


def permission_of(route: RouteContext) -> Permission | None:
    """None: of everybody."""
    return next((call.permission for call in calls_of(route.dependant) if isinstance(call, Needs)), None)


def calls_of(dependant: Dependant) -> Iterator[Any]:
    for each in dependant.dependencies:
        yield each.call
        yield from calls_of(each)


_REFUSALS: Final = (
    InvalidRequest,
    Unauthenticated,
    Forbidden,
    NotFound,
    Conflict,
    PreconditionFailed,
    TooLarge,
    RateLimited,
    Unavailable,
    DeadlineExceeded,
)


def _refusal(kind: type[ServiceError]) -> dict[str, Any]:
    example = {"error": {"code": kind.code, "message": kind().message, "request_id": "9f1c6d0e5b7a4f6b8a1d"}}
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}, "example": example}}
    refusal: dict[str, Any] = {"description": kind().message.capitalize(), "content": content}
    if kind in (RateLimited, Unavailable):
        seconds = {"description": "Seconds until trying again may help", "schema": {"type": "integer", "minimum": 1}}
        refusal["headers"] = {"Retry-After": seconds}
    return refusal


def _complete(operation: dict[str, Any], route: RouteContext, method: str) -> None:
    path = (route.path_format or "").removeprefix(PREFIX)
    operation["operationId"] = "_".join([method.lower(), *re.findall(r"\w+", path)])
    permission = permission_of(route)
    operation["security"] = [{name: []} for name in SECURITY] if permission else []
    if permission:
        operation["x-permission"] = permission.value
        needs = f"Needs the permission `{permission}`."
        operation["description"] = "\n\n".join(filter(None, [operation.get("description"), needs]))
    responses = operation["responses"]
    responses.pop("422", None)
    for kind in _possible(operation, permission, changes=method not in ("GET", "HEAD")):
        responses.setdefault(str(kind.status), {"$ref": f"#/components/responses/{kind.__name__}"})
    operation["responses"] = dict(sorted(responses.items()))


def _possible(
    operation: dict[str, Any], permission: Permission | None, *, changes: bool
) -> Iterator[type[ServiceError]]:
    parameters, has_body = operation.get("parameters", []), "requestBody" in operation
    yield from (RateLimited, Unavailable)
    if parameters or has_body:
        yield InvalidRequest
    if has_body:
        yield TooLarge
    if permission or has_body:
        yield from (Unauthenticated, Forbidden)
    if has_body or any(each["in"] == "path" for each in parameters):
        yield NotFound
    if changes:
        yield Conflict
    if permission is Permission.INFERENCE_RUN:
        yield DeadlineExceeded
    if any(each["name"].lower() == "if-match" for each in parameters):
        yield PreconditionFailed
