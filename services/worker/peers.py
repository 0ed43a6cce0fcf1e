"""The door for other workers: ranges of blobs, to who shows a token that the registry signed for this worker.

What is sent was verified as it was read; one chunk at most goes into an answer, so that an answer is whole or is none.
"""

import asyncio
import re
from typing import Final

import structlog
from prometheus_client import Counter
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from libs.common import peer_token
from libs.common.errors import InvalidRequest, Overloaded, ServiceError, Unauthenticated
from libs.common.web import error_response
from services.worker.blobs.cache import BlobCache
from services.worker.blobs.files import CHUNK_BYTES
from services.worker.blobs.throttle import Throttle

log = structlog.get_logger(__name__)

_sent = Counter("worker_blob_bytes_sent_total", "Bytes of blobs sent to other workers")

ANSWER_SECONDS: Final = 120.0
LONGEST_BACKLOG_SECONDS: Final = 15.0
"""Who would have to wait longer for its share of the bandwidth is sent away: others may be quicker."""

_RANGE: Final = re.compile(r"bytes=(\d{1,15})-(\d{1,15})")


def create_app(cache: BlobCache, key: str, *, transfers: int, bytes_per_second: int) -> Starlette:
    """``key``: tokens are signed with it. ``transfers``: how many at once; ``bytes_per_second``: of all, 0 no bound."""
    app = Starlette(
        routes=[Route("/blobs/{digest}", _blob, methods=["GET"])],
        middleware=[Middleware(Bounded, most=transfers)],
        exception_handlers={ServiceError: _refuse},
    )
    app.state.cache = cache
    app.state.key = key
    app.state.throttle = Throttle(bytes_per_second)
    return app


class Bounded:
    """So many answers at once, each for so long at most: each holds a chunk in memory until its client has it."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._running >= self._most:
            await _refusal(Overloaded())(scope, receive, send)
            return
        self._running += 1
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._app(scope, receive, send)
        except TimeoutError:
            log.info("a peer was too slow", client=scope.get("client"))
        finally:
            self._running -= 1


async def _blob(request: Request) -> Response:
    """206 with the range asked for. Raises ``Unauthenticated``, ``InvalidRequest``, ``NotFound``, ``Overloaded``."""
    cache: BlobCache = request.app.state.cache
    throttle: Throttle = request.app.state.throttle
    digest: str = request.path_params["digest"]
    _require_token(request, digest)
    size = await cache.size(digest)
    start, end = _wanted(request.headers.get("range", ""), size)
    if throttle.backlog_seconds > LONGEST_BACKLOG_SECONDS:
        raise Overloaded
    content = await cache.read(digest, start, end - start)
    await throttle.take(len(content))
    _sent.inc(len(content))
    headers = {"Content-Range": f"bytes {start}-{end - 1}/{size}", "Accept-Ranges": "bytes"}
    return Response(content, 206, headers, media_type="application/octet-stream")


def _require_token(request: Request, digest: str) -> None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme != "Bearer" or not peer_token.is_valid(request.app.state.key, token, digest):
        raise Unauthenticated


def _wanted(header: str, size: int) -> tuple[int, int]:
    """Start and end (exclusive) of the one range that peers ask for. Raises ``InvalidRequest``."""
    match = _RANGE.fullmatch(header)
    start, end = (int(match[1]), int(match[2]) + 1) if match else (0, 0)
    if not 0 <= start < end <= size or end - start > CHUNK_BYTES:
        raise InvalidRequest(f"ask for one range of at most {CHUNK_BYTES} bytes within the blob")
    return start, end


async def _refuse(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)
    return _refusal(error)


def _refusal(error: ServiceError) -> JSONResponse:
    return error_response(error.code, error.message, error.status)
