"""HTTP that every service has: health, metrics, uniform error bodies, and a server that our life cycle owns."""

import asyncio
import contextlib
import ctypes
import math
import socket
import struct
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
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from libs.common import actor
from libs.common.database import Database
from libs.common.errors import Forbidden, InvalidRequest, NotFound, ServiceError, TooLarge, Unauthenticated

log = structlog.get_logger(__name__)

RETRY_AFTER_SECONDS = 1
"""Sent with every 503 that is an error: what is away is mostly back soon."""

MOST_HEAD_BYTES = 64 * 1024
"""Request line and headers. The server keeps whatever comes until they are complete."""

SO_ATTACH_REUSEPORT_CBPF = 51
BPF_RETURN = 0x06
"""Of the Linux kernel; Python has no names for them."""

_CODES = {
    **{error.status: error.code for error in (InvalidRequest, Unauthenticated, Forbidden, NotFound, TooLarge)},
    405: "method_not_allowed",
}
"""Of what the framework refuses, by status."""

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
    """``error_response`` for our errors and the framework's; nothing of the inside for a crash."""

    @app.exception_handler(ServiceError)
    async def service_error(_request: Request, error: ServiceError) -> JSONResponse:
        return error_response(error.code, error.message, error.status, error.retry_after)

    @app.exception_handler(HTTPException)
    async def http_error(_request: Request, error: HTTPException) -> JSONResponse:
        return http_error_response(error)

    @app.exception_handler(Exception)
    async def crash(request: Request, error: Exception) -> JSONResponse:
        log.error("unhandled error", path=request.url.path, exc_info=error)
        return error_response(ServiceError.code, ServiceError().message, 500)


def http_error_response(error: HTTPException) -> JSONResponse:
    response = error_response(_CODES.get(error.status_code, "http_error"), str(error.detail), error.status_code)
    response.headers.update(error.headers or {})
    return response


def error_response(code: str, message: str, status: int, retry_after: float | None = None) -> JSONResponse:
    """``{"error": {"code", "message", "request_id"}}``, the last if the request has one."""
    error = {"code": code, "message": message}
    if request_id := actor.current().request_id:
        error["request_id"] = request_id
    return JSONResponse({"error": error}, status_code=status, headers=retry_after_header(status, retry_after))


def retry_after_header(status: int, retry_after: float | None) -> dict[str, str]:
    """Whole seconds, rounded up; for every 503, and for what knows when to try again."""
    if retry_after is None and status != 503:
        return {}
    return {"Retry-After": str(RETRY_AFTER_SECONDS if retry_after is None else max(1, math.ceil(retry_after)))}


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's, but a client cannot send headers without end."""

    _head_bytes = 0
    _in_head = False

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._head_bytes > MOST_HEAD_BYTES:
            self.send_400_response("The headers are too large.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: our life cycle decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        app: ASGIApp,
        host: str,
        port: int,
        start_task: StartTask,
        drain_seconds: float = 5.0,
        *,
        share_port: bool = False,
    ) -> AsyncIterator[int]:
        """Listening from the first line of the block; at its end no new connections, and running responses finish.

        ``share_port``: with processes that were there before, until they stop; new connections come to this one.
        Yields the port, which differs from ``port`` if that is 0.
        """
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            http=BoundedProtocol,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=max(1, int(drain_seconds)),
            lifespan="off",
        )
        server = cls(config)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=2048, reuse_port=share_port)
        if share_port:
            _take_new_connections(listener)
        task = start_task(server.serve(sockets=[listener]), f"http {host}:{port}")
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await asyncio.wait({task}, timeout=drain_seconds + 5)
            listener.close()


def _take_new_connections(newest: socket.socket) -> None:
    """All that the port gets, so that none waits at a listener that is about to close.

    A program of one instruction, "choose the second listener", which is the newest of two; of a number that is not
    there the kernel makes nothing. Elsewhere than on Linux, and where it is forbidden, the listeners share.
    """
    choose_second = ctypes.create_string_buffer(struct.pack("HBBI", BPF_RETURN, 0, 0, 1))
    program = struct.pack("@HP", 1, ctypes.addressof(choose_second))
    with contextlib.suppress(OSError):
        newest.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, program)
