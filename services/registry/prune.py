"""Bytes that nobody needs any more are removed: at once with their model, and what is left behind after a while."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import structlog

from libs.common.database import EVERY_ORGANIZATION
from libs.common.errors import Unavailable
from services.registry import manifests, uploads
from services.registry.context import Context
from services.registry.store import blobs as store

log = structlog.get_logger(__name__)

PAUSE_SECONDS: Final = 600.0
PARTIAL_SECONDS: Final = 86_400.0
"""Whoever began a file that is not complete may go on with it for a day."""

BATCH: Final = 200
"""Blobs looked at in one transaction: while it lasts nobody can make a name point to anything."""


async def remove_unneeded(ctx: Context, organization: str, digests: Sequence[str]) -> list[str]:
    """What ``organization`` does not need any more: what no model and no kept version has is gone, and is returned.

    What others have just brought, to make a model of it, stays until they have had the time.
    """
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        wanted = await store.brought_by_others(tx, organization, digests)
    return await _remove(ctx, [digest for digest in digests if digest not in wanted], older_than_seconds=0)


async def prune(ctx: Context) -> list[str]:
    """Remove the blobs that no model and no kept version has had for a while; their digests are returned."""
    removed = []
    old = await ctx.blobs.list_old(ctx.settings.prune_after_seconds)
    for first in range(0, len(old), BATCH):
        removed += await _remove(ctx, old[first : first + BATCH], older_than_seconds=ctx.settings.prune_after_seconds)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await store.forget_brought(tx, ctx.settings.prune_after_seconds)
    partials = await ctx.blobs.remove_partials(PARTIAL_SECONDS)
    await uploads.give_up_old(ctx)
    if removed or partials:
        log.info("pruned", blobs=len(removed), partial_files=partials)
    return removed


async def prune_for_ever(ctx: Context) -> None:
    """At the start and then every ten minutes, on every replica. Does nothing where OLLAMA_NOPRUNE says so."""
    while True:
        if not ctx.settings.noprune:
            try:
                await prune(ctx)
            except (OSError, Unavailable) as error:
                log.warning("could not prune", error=str(error))
        await asyncio.sleep(PAUSE_SECONDS)


async def _remove(ctx: Context, digests: Sequence[str], *, older_than_seconds: float) -> list[str]:
    """Only those that are still so old when it is their turn: an upload may want one again.

    Nor those of a manifest that is no row of ours: the directory may be an Ollama's, whose models are not ours to lose.
    """
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        # Whoever makes a name point to one of them now waits, and then finds that it is not there.
        await store.lock_while_removing(tx)
        unneeded = await store.unneeded(tx, digests)
        if unneeded:
            in_files = await manifests.digests_in_files(ctx.settings.data_dir)
            unneeded = [digest for digest in unneeded if digest not in in_files]
        until = time.time() - older_than_seconds
        removed = [digest for digest in unneeded if await ctx.blobs.remove(digest, older_than=until)]
        await store.forget(tx, removed)
    return removed
