"""The registry's doors for HTTP: the bytes of blobs, for workers."""

from secrets import compare_digest
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import FileResponse

from libs.common.errors import Unauthenticated
from services.registry import catalog
from services.registry.context import Context

router = APIRouter()


def context_for_workers(request: Request) -> Context:
    """Raises ``Unauthenticated`` unless the caller shows the token that workers share with us."""
    ctx: Context = request.app.state.context
    expected = f"Bearer {ctx.settings.blob_token.get_secret_value()}"
    if not compare_digest(request.headers.get("authorization", "").encode(), expected.encode()):
        raise Unauthenticated
    return ctx


@router.api_route("/blobs/{digest}", methods=["GET", "HEAD"])
async def blob(digest: str, ctx: Annotated[Context, Depends(context_for_workers)]) -> FileResponse:
    """The whole blob, or the ranges asked for."""
    found = await catalog.find_blob(ctx, digest)
    return FileResponse(
        ctx.blobs.path(found.digest),
        media_type="application/octet-stream",
        headers={"etag": f'"{found.digest}"', "docker-content-digest": found.digest},
    )
