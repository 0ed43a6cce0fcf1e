"""The registry protocol, so that other Ollamas, and other installations of ours, pull from here and push to here.

The registry speaks it. This door admits callers, says errors in the protocol's words and passes the bytes through.
"""

from collections.abc import Iterator, Sequence
from functools import partial

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.gateway.api.door import Body, Call, Door
from services.gateway.api.v2.relay import relay
from services.gateway.api.v2.words import VERSION, Kind, render_error
from services.gateway.permissions import Permission


async def version(_call: Call) -> Response:
    return JSONResponse({}, headers=VERSION)


def _reading(path: str, kind: Kind) -> Route:
    door = Door(relay, partial(render_error, kind), Permission.MODEL_READ, Body.NONE)
    return Route(path, door, methods=["GET"])


def _writing(path: str, kind: Kind, methods: Sequence[str]) -> Iterator[Route]:
    """What is asked while writing, as how much of an upload has arrived, is for those who may write."""
    for method in methods:
        body = Body.NONE if method in {"GET", "DELETE"} else Body.STREAM
        yield Route(path, Door(relay, partial(render_error, kind), Permission.MODEL_MANAGE, body), methods=[method])


routes = [
    *(
        Route(path, Door(version, partial(render_error, "base"), Permission.MODEL_READ, Body.NONE))
        for path in ("/v2", "/v2/")
    ),
    _reading("/v2/{name:path}/manifests/{reference}", "manifest"),
    *_writing("/v2/{name:path}/manifests/{reference}", "manifest", ["PUT"]),
    _reading("/v2/{name:path}/tags/list", "tags"),
    *_writing("/v2/{name:path}/blobs/uploads/", "upload", ["POST"]),
    *_writing("/v2/{name:path}/blobs/uploads/{upload}", "upload", ["GET", "PATCH", "PUT", "DELETE"]),
    _reading("/v2/{name:path}/blobs/{digest}", "blob"),
]
