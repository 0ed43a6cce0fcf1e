"""HTTP that every service has: health, metrics, uniform error bodies, and a server that our life cycle owns."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
import uvicorn
from fastapi import APIRouter, FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from libs.common.database import Database
from libs.common.errors import ServiceError

log = structlog.get_logger(__name__)

RETRY_AFTER_SECONDS = 1
"""Sent with every 503 that is an error: what is away is mostly back soon."""

_tasks = Gauge(
    "asyncio_tasks", "Tasks of this process that have not ended; back at its level when nobody asks anything"
)

StartTask = Callable[[Coroutine[Any, Any, Any], str], "asyncio.Task[Any]"]


def health_router(postgres: Database | None, not_ready: Callable[[], str | None]) -> APIRouter:
    """``/health/live``: the event loop turns. ``/health/ready``: it can serve. ``/health/db``: its database answers."""
    router = APIRouter()

    @router.get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/health")
    @router.get("/health/ready")
    async def ready() -> JSONResponse:
        reason = not_ready()
        if reason is None:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "unavailable", "reason": reason}, status_code=503)

    @router.get("/health/db")
    async def database() -> JSONResponse:
        if postgres is None:
            return JSONResponse({"status": "ok", "database": "none"})
        try:
            await asyncio.wait_for(postgres.check(), timeout=5)
        except (ServiceError, TimeoutError):
            return JSONResponse({"status": "unavailable", "reason": "the database does not answer"}, status_code=503)
        return JSONResponse({"status": "ok", **postgres.pool_stats()})

    return router


def create_ops_app(
    service: str,
    context: object,
    postgres: Database | None,
    not_ready: Callable[[], str | None],
    router: APIRouter | None,
) -> FastAPI:
    """Health, metrics and the service's own operational routes, which find ``context`` in ``request.app.state``."""
    app = FastAPI(title=f"OllamaMax {service}", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.context = context
    app.include_router(health_router(postgres, not_ready))
    if router is not None:
        app.include_router(router)

    @app.get("/metrics")
    async def metrics() -> Response:
        _tasks.set(len(asyncio.all_tasks()))
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    add_error_handlers(app)
    return app


def add_error_handlers(app: FastAPI) -> None:
    """``{"error": {"code", "message"}}`` for our errors and the framework's; nothing of the inside for a crash."""

    @app.exception_handler(ServiceError)
    async def service_error(_request: Request, error: ServiceError) -> JSONResponse:
        return error_response(error.code, error.message, error.status)

    @app.exception_handler(HTTPException)
    async def http_error(_request: Request, error: HTTPException) -> JSONResponse:
        return error_response("http_error", str(error.detail), error.status_code)

    @app.exception_handler(Exception)
    async def crash(request: Request, error: Exception) -> JSONResponse:
        log.error("unhandled error", path=request.url.path, exc_info=error)
        return error_response(ServiceError.code, ServiceError().message, 500)


def error_response(code: str, message: str, status: int) -> JSONResponse:
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else None
    return JSONResponse({"error": {"code": code, "message": message}}, status_code=status, headers=headers)


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: our life cycle decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @classmethod
    @asynccontextmanager
    async def running(
        cls, app: ASGIApp, host: str, port: int, start_task: StartTask, drain_seconds: float = 5.0
    ) -> AsyncIterator[int]:
        """Listening from the first line of the block; at its end no new connections, and running responses finish.

        Yields the port, which differs from ``port`` if that is 0.
        """
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=max(1, int(drain_seconds)),
            lifespan="off",
        )
        server = cls(config)
        listener = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
        task = start_task(server.serve(sockets=[listener]), f"http {host}:{port}")
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await asyncio.wait({task}, timeout=drain_seconds + 5)
            listener.close()
