"""One person's data."""

from libs.common.bus.base import Handlers
from libs.common.contracts.auth.privacy import EraseOwn, EraseUser, ExportUser, UserErased, UserExport
from services.auth import privacy
from services.auth.context import Context

handlers = Handlers("auth")


@handlers.on(ExportUser)
async def export_user(query: ExportUser, ctx: Context) -> UserExport:
    return await (privacy.export_own(ctx) if query.user_id is None else privacy.export(ctx, query.user_id))


@handlers.on(EraseUser)
async def erase_user(query: EraseUser, ctx: Context) -> None:
    await privacy.erase(ctx, query.user_id)


@handlers.on(EraseOwn)
async def erase_own(query: EraseOwn, ctx: Context) -> None:
    await privacy.erase_own(ctx, query.password, query.code)


@handlers.on(UserErased, prefetch=1)
async def user_erased(event: UserErased, ctx: Context) -> None:
    await privacy.forget_usage(ctx, event.user_id)
