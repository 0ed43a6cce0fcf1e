"""Which blobs an organization may know of: those of models it sees, and those it has brought here itself.

Bytes are stored once for all. Who names a digest without having had the bytes must neither get them nor learn that
they are here.
"""

from collections.abc import AsyncIterator
from pathlib import Path

from libs.common import actor
from libs.common.database import EVERY_ORGANIZATION
from services.registry.blobs import Blob
from services.registry.context import Context
from services.registry.store import blobs as store


async def find(ctx: Context, digest: str) -> Blob | None:
    """For a worker, which acts for every organization, any blob that is here."""
    if actor.current().organization_id == EVERY_ORGANIZATION:
        return await ctx.blobs.find(digest)
    async with ctx.db.transaction() as tx:
        known = await store.known(tx, [digest])
    return await ctx.blobs.find(digest) if known else None


async def renew(ctx: Context, digest: str) -> Blob | None:
    """As ``find``, for somebody who is about to use it: a blob without a model is kept for a while from now."""
    async with ctx.db.transaction() as tx:
        await store.renew_brought(tx, digest)
        known = await store.known(tx, [digest])
    return await ctx.blobs.renew(digest) if known else None


async def brought(ctx: Context, blob: Blob) -> Blob:
    """The organization has had the bytes: from now on it may refer to them."""
    async with ctx.db.transaction() as tx:
        await store.save_brought(tx, actor.current().organization_id, blob.digest)
    return blob


async def add_bytes(ctx: Context, content: bytes) -> Blob:
    """What ``BlobStore.add_bytes`` raises; so do the others below."""
    return await brought(ctx, await ctx.blobs.add_bytes(content))


async def add_file(ctx: Context, source: Path) -> Blob:
    return await brought(ctx, await ctx.blobs.add_file(source))


async def receive(ctx: Context, digest: str, chunks: AsyncIterator[bytes]) -> Blob:
    return await brought(ctx, await ctx.blobs.receive(digest, chunks))
