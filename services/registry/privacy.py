"""What the registry knows of one person: which models they created."""

from libs.common.contracts.exports import ExportedRows
from libs.common.database import EVERY_ORGANIZATION
from services.registry.context import Context
from services.registry.store import privacy as privacy_store


async def export(ctx: Context, user_id: str, organization_id: str | None) -> ExportedRows:
    async with ctx.db.transaction(organization_id or EVERY_ORGANIZATION) as tx:
        return await privacy_store.models_of(tx, user_id)


async def forget(ctx: Context, user_id: str) -> None:
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await privacy_store.forget_user(tx, user_id)
