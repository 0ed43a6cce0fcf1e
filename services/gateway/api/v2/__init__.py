"""The registry protocol, so that other Ollamas, and other installations of ours, pull from here and push to here.

The registry speaks it. This door admits callers, says errors in the protocol's words and passes the bytes through.
"""

from functools import partial

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.gateway.api.door import Body, Call, Door, Handler
from services.gateway.api.v2.relay import relay
from services.gateway.api.v2.words import VERSION, Kind, render_error
from services.gateway.permissions import Permission


async def version(_call: Call) -> Response:
    return JSONResponse({}, headers=VERSION)


def _read(path: str, kind: Kind, handler: Handler = relay) -> Route:
    door = Door(handler, partial(render_error, kind), Permission.MODEL_READ, Body.NONE)
    return Route(path, door, methods=["GET"])


def _write(method: str, path: str, kind: Kind, body: Body = Body.STREAM) -> Route:
    return Route(path, Door(relay, partial(render_error, kind), Permission.MODEL_MANAGE, body), methods=[method])


MANIFEST = "/v2/{name:path}/manifests/{reference}"
UPLOAD = "/v2/{name:path}/blobs/uploads/{upload}"

routes = [
    _read("/v2", "base", version),
    _read("/v2/", "base", version),
    _read(MANIFEST, "manifest"),
    _write("PUT", MANIFEST, "manifest"),
    _read("/v2/{name:path}/tags/list", "tags"),
    _read("/v2/{name:path}/blobs/{digest}", "blob"),
    _write("POST", "/v2/{name:path}/blobs/uploads/", "upload"),
    _write("GET", UPLOAD, "upload", Body.NONE),
    _write("PATCH", UPLOAD, "upload"),
    _write("PUT", UPLOAD, "upload"),
    _write("DELETE", UPLOAD, "upload", Body.NONE),
]
