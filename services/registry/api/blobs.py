"""Blobs by their digest: workers fetch them, gateways bring those that clients upload."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from libs.common.errors import NotFound
from services.registry import blobs, catalog, holdings
from services.registry.api.door import BlobResponse, Ctx, body_of

router = APIRouter(prefix="/blobs")


@router.get("/{digest}")
async def blob(digest: str, ctx: Ctx) -> BlobResponse:
    return BlobResponse(ctx, await catalog.find_blob(ctx, digest))


@router.head("/{digest}")
async def is_there(digest: str, ctx: Ctx) -> BlobResponse:
    """Who asks means to use it: it is kept for a while from now, even if no model needs it."""
    found = await holdings.renew(ctx, blobs.checked(digest))
    if found is None:
        raise NotFound
    return BlobResponse(ctx, found)


@router.post("/{digest}")
async def store(digest: str, request: Request, ctx: Ctx, *, anew: bool = False) -> Response:
    """201, or 200 if it is there already; then the body is not read. ``anew``: it is, all the same."""
    wanted = blobs.checked(digest)
    if not anew and await holdings.renew(ctx, wanted):
        return Response(status_code=200)
    await holdings.receive(ctx, wanted, body_of(request, ctx.settings.max_blob_bytes))
    return Response(status_code=201)
