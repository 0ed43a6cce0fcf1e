"""The registry protocol, so that other Ollamas, and other installations of ours, pull from here and push to here.

The registry speaks it. This door admits callers, says errors in the protocol's words and passes the bytes through.
"""

from functools import partial

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from libs.common.contracts.permissions import Permission
from services.gateway.api.door import Body, Call, Dialect, Door, Handler
from services.gateway.api.v2 import seen
from services.gateway.api.v2.relay import relay
from services.gateway.api.v2.words import VERSION, Kind, render_error


async def version(_call: Call) -> Response:
    return JSONResponse({}, headers=VERSION)


def _read(path: str, kind: Kind, handler: Handler) -> Route:
    door = Door(
        handler, Dialect(partial(render_error, kind)), Permission.MODEL_READ, Body.NONE, downloads=kind == "blob"
    )
    return Route(path, door, methods=["GET"])


def _write(method: str, path: str, kind: Kind, handler: Handler = relay, body: Body = Body.STREAM) -> Route:
    return Route(
        path, Door(handler, Dialect(partial(render_error, kind)), Permission.MODEL_MANAGE, body), methods=[method]
    )


MANIFEST = "/v2/{name:path}/manifests/{reference}"
UPLOAD = "/v2/{name:path}/blobs/uploads/{upload}"

routes = [
    _read("/v2", "base", version),
    _read("/v2/", "base", version),
    _read(MANIFEST, "manifest", seen.manifest),
    _write("PUT", MANIFEST, "manifest", seen.put_manifest),
    _read("/v2/{name:path}/tags/list", "tags", seen.tags),
    _read("/v2/{name:path}/blobs/{digest}", "blob", seen.blob),
    _write("POST", "/v2/{name:path}/blobs/uploads/", "upload", seen.begin_upload),
    _write("GET", UPLOAD, "upload", body=Body.NONE),
    _write("PATCH", UPLOAD, "upload"),
    _write("PUT", UPLOAD, "upload"),
    _write("DELETE", UPLOAD, "upload", body=Body.NONE),
]
