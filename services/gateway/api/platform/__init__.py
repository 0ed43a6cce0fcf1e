"""``/api/v1``: our own REST. Errors are ``{"error": {"code", "message"}}``."""

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.responses import JSONResponse

from libs.common import web
from libs.common.errors import InvalidRequest
from services.gateway.api.platform import auth, keys, models, replicas

router = APIRouter()
router.include_router(auth.router)
router.include_router(keys.router)
router.include_router(models.router)
router.include_router(replicas.router)


def add_error_handlers(app: FastAPI) -> None:
    web.add_error_handlers(app)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        """What is wrong and where, but not the value: it may be a password."""
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        message = f"{where}: {first['msg']}" if where else str(first["msg"])
        return web.error_response(InvalidRequest.code, message, InvalidRequest.status)
