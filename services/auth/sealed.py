"""What auth keeps sealed: a new AUTH_SECRET_KEY reaches all of it."""

from typing import Final

from libs.common.resealing import SealedColumn, reseal
from services.auth.context import Context

COLUMNS: Final = (
    SealedColumn("user_totp", "sealed_secret", "user_id"),
    SealedColumn("signing_keys", "sealed_private_key", "id"),
    SealedColumn("audit_key", "sealed_key", "id"),
)


async def seal_anew(ctx: Context) -> None:
    """Background loop."""
    await reseal(ctx.db, ctx.sealing, COLUMNS)
