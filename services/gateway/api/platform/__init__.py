"""``/api/v1``: our own REST. Errors are ``{"error": {"code", "message", "request_id"}}``."""

from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from libs.common import web
from libs.common.errors import InvalidRequest
from services.gateway.api.platform import (
    audit,
    auth,
    docs,
    inference,
    invitations,
    keys,
    limits,
    members,
    models,
    nodes,
    organizations,
    privacy,
    queue,
    replicas,
    requests,
    roles,
    second_factor,
    stats,
    system,
    usage,
    users,
    versions,
)
from services.gateway.api.platform.methods import allowed
from services.gateway.api.platform.openapi import document

router = APIRouter()
router.include_router(auth.router)
router.include_router(audit.router)
router.include_router(second_factor.router)
router.include_router(privacy.router)
router.include_router(keys.router)
router.include_router(organizations.router)
router.include_router(members.router)
router.include_router(invitations.router)
router.include_router(roles.router)
router.include_router(limits.router)
router.include_router(usage.router)
router.include_router(versions.router)
router.include_router(replicas.router)
router.include_router(inference.router)
router.include_router(requests.router)
router.include_router(nodes.router)
router.include_router(queue.router)
router.include_router(stats.router)
router.include_router(system.router)
router.include_router(users.router)
router.include_router(docs.router)
# Last of those about models: names have slashes, so it takes every path that the others leave.
router.include_router(models.router)


class Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        self.openapi_schema = self.openapi_schema or document(self)
        return self.openapi_schema


def add_error_handlers(app: FastAPI) -> None:
    web.add_error_handlers(app)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        if error.status_code != 405:
            return web.http_error_response(error)
        headers = {"Allow": allowed(app, request.url.path)}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
        return web.http_error_response(HTTPException(405, error.detail, headers))

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        """What is wrong and where, but not the value: it may be a password."""
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        message = f"{where}: {first['msg']}" if where else str(first["msg"])
        return web.error_response(InvalidRequest.code, message, InvalidRequest.status)
