"""The registry protocol (OCI distribution, Docker's words), as far as models need it.

``<name>`` is ``namespace/model``; a tag makes it one of our model names. Locations are paths: the gateway, which
clients see, puts its own address in front, and says errors in the protocol's words.
"""

import re
from typing import Final

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from libs.common.errors import InvalidRequest, NotFound, OutOfRange
from services.registry import blobs, catalog, holdings, manifests, names, uploads
from services.registry.api.door import BlobResponse, Ctx, body_of
from services.registry.context import Context
from services.registry.store import repositories

router = APIRouter(prefix="/v2/{name:path}")

MOST_TAGS: Final = 1000
_CONTENT_RANGE: Final = re.compile(r"(?:bytes )?(\d{1,18})-(\d{1,18})(?:/.*)?")


@router.api_route("/manifests/{reference}", methods=["GET", "HEAD"])
async def manifest(name: str, reference: str, ctx: Ctx) -> Response:
    text = await _manifest_text(ctx, name, reference)
    content = text.encode()
    return Response(
        content,
        media_type=manifests.media_type(text),
        headers={"Docker-Content-Digest": blobs.digest_of(content)},
    )


@router.put("/manifests/{tag}")
async def put_manifest(name: str, tag: str, request: Request, ctx: Ctx) -> Response:
    """The model is there from now on, if all its blobs are."""
    content = b"".join([chunk async for chunk in body_of(request, manifests.LARGEST_MANIFEST_BYTES)])
    await catalog.install(ctx, names.parse(f"{name}:{tag}"), content)
    digest = blobs.digest_of(content)
    return _created(f"/v2/{name}/manifests/{digest}", digest)


@router.get("/tags/list")
async def tags(
    name: str,
    ctx: Ctx,
    n: int = Query(MOST_TAGS, ge=1, le=MOST_TAGS),
    last: str = Query("", max_length=128, pattern=r"^[^\x00]*$"),  # Postgres knows no text with NUL
) -> Response:
    async with ctx.db.transaction() as tx:
        found = await repositories.tags(tx, names.parse(name), after=last, limit=n)
    if not found and not last:
        raise NotFound("repository name not known to registry")
    headers = {"Link": f'</v2/{name}/tags/list?n={n}&last={found[-1]}>; rel="next"'} if len(found) == n else {}
    return JSONResponse({"name": name, "tags": found}, headers=headers)


@router.get("/blobs/{digest}")
async def blob(name: str, digest: str, ctx: Ctx) -> Response:
    names.parse(name)
    response = BlobResponse(ctx, await catalog.find_blob(ctx, digest))
    # Older clients of Ollama ask every blob where it really is, and take an answer without a place for a failure.
    response.headers["Location"] = f"/v2/{name}/blobs/{digest}"
    return response


@router.head("/blobs/{digest}")
async def is_there(name: str, digest: str, ctx: Ctx) -> Response:
    """Who pushes asks this first, so the blob is kept for a while from now, even if no model needs it yet."""
    names.parse(name)
    found = await holdings.renew(ctx, blobs.checked(digest))
    if found is None:
        raise NotFound("blob unknown to registry")
    return BlobResponse(ctx, found)


@router.post("/blobs/uploads/")
async def begin_upload(name: str, request: Request, ctx: Ctx, mount: str = "", digest: str = "") -> Response:
    """201 for a blob that is there already (``mount``) or came with this request (``digest``), otherwise 202."""
    names.parse(name)
    known = blobs.normalised(mount)
    if known is not None and await holdings.renew(ctx, known):
        return _created(f"/v2/{name}/blobs/{known}", known)
    if digest and request.headers.get("content-length") != "0":
        wanted = blobs.checked(digest)
        await holdings.receive(ctx, wanted, body_of(request, ctx.settings.max_blob_bytes))
        return _created(f"/v2/{name}/blobs/{wanted}", wanted)
    return _under_way(name, await uploads.begin(ctx), 0, status=202)


@router.get("/blobs/uploads/{upload}")
async def upload_status(name: str, upload: str, ctx: Ctx) -> Response:
    return _under_way(name, upload, await uploads.size(ctx, upload), status=204)


@router.patch("/blobs/uploads/{upload}")
async def go_on(name: str, upload: str, request: Request, ctx: Ctx) -> Response:
    return _under_way(name, upload, await _append(ctx, upload, request), status=202)


@router.put("/blobs/uploads/{upload}")
async def finish_upload(name: str, upload: str, request: Request, ctx: Ctx, digest: str = "") -> Response:
    """With the last piece in its body, or none. Again for an upload that is finished: 201 again."""
    names.parse(name)
    wanted = blobs.checked(digest)
    try:
        await _append(ctx, upload, request)
        await uploads.finish(ctx, upload, wanted)
    except NotFound:
        if await holdings.renew(ctx, wanted) is None:
            raise
    return _created(f"/v2/{name}/blobs/{wanted}", wanted)


@router.delete("/blobs/uploads/{upload}")
async def abandon_upload(upload: str, ctx: Ctx) -> Response:
    await uploads.abandon(ctx, upload)
    return Response(status_code=204)


async def _manifest_text(ctx: Context, name: str, reference: str) -> str:
    """By tag, or by digest. Raises ``ModelNotFound``, ``NotFound``, ``InvalidModelName``."""
    digest = blobs.normalised(reference)
    if digest is None:
        return (await catalog.find_manifest(ctx, f"{name}:{reference}")).text
    async with ctx.db.transaction() as tx:
        text = await repositories.manifest(tx, names.parse(name), digest.removeprefix("sha256:"))
    if text is None:
        raise NotFound("manifest unknown")
    return text


async def _append(ctx: Context, upload: str, request: Request) -> int:
    given = request.headers.get("content-range")
    start = None
    if given is not None:
        parts = _CONTENT_RANGE.fullmatch(given)
        if parts is None:
            raise InvalidRequest("invalid Content-Range")
        start, last = int(parts[1]), int(parts[2])
        if last < start:
            raise OutOfRange
    return await uploads.append(ctx, upload, start, body_of(request, ctx.settings.max_blob_bytes))


def _created(location: str, digest: str) -> Response:
    return Response(status_code=201, headers={"Location": location, "Docker-Content-Digest": digest})


def _under_way(name: str, upload: str, size: int, *, status: int) -> Response:
    names.parse(name)
    headers = {
        "Location": f"/v2/{name}/blobs/uploads/{upload}",
        "Docker-Upload-UUID": upload,
        "Range": f"0-{max(0, size - 1)}",
    }
    return Response(status_code=status, headers=headers)
