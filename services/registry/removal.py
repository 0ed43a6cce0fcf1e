"""Models go: one of a name, which may still be on its way, or all of an organization that is no more."""

from libs.common.database import EVERY_ORGANIZATION
from libs.common.errors import ModelNotFound
from services.registry import additions, catalog, manifests, prune
from services.registry.context import Context
from services.registry.store import additions as addition_store
from services.registry.store import blobs as blob_store
from services.registry.store import models as store
from services.registry.store import versions as version_store


async def delete(ctx: Context, name: str, *, on_its_way: bool) -> None:
    """What ``catalog.delete`` raises."""
    given_up = on_its_way and await additions.give_up(ctx, name)
    try:
        await catalog.delete(ctx, name)
    except ModelNotFound:
        if not given_up:
            raise


async def delete_all(ctx: Context, organization: str) -> None:
    """Twice does no harm."""
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await blob_store.lock_while_removing(tx)
        models = await store.models_of(tx, organization)
        had = {digest for number, _ in models for digest in await version_store.list_layers(tx, number)}
        for number, _ in models:
            await store.delete_model(tx, number)
        await addition_store.forget_all(tx, organization)
        await blob_store.forget_all_brought(tx, organization)
    await manifests.remove_home(ctx.settings.data_dir, organization)
    await prune.remove_unneeded(ctx, organization, sorted(had))
    for _, name in models:
        await catalog.announce(ctx, name, organization, shared=False)
