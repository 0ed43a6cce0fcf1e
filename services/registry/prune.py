"""Bytes that nobody needs any more are removed: at once with their model, and what is left behind after a while."""

from collections.abc import Sequence

from services.registry.context import Context
from services.registry.store import blobs as store


async def remove_unneeded(ctx: Context, digests: Sequence[str]) -> list[str]:
    """Those of ``digests`` that no model and no kept version has are gone, and are returned."""
    async with ctx.db.transaction() as tx:
        # Whoever makes a name point to one of them now waits, and then finds that it is not there.
        await store.lock_while_removing(tx)
        unneeded = await store.unneeded(tx, digests)
        await store.forget(tx, unneeded)
        for digest in unneeded:
            await ctx.blobs.remove(digest)
    return unneeded
