"""One person's data."""

from libs.common.bus.base import Handlers
from libs.common.contracts.auth.privacy import UserErased
from libs.common.contracts.scheduler.requests import ExportUser, UserRequests
from services.scheduler import privacy
from services.scheduler.context import Context

handlers = Handlers("scheduler")


@handlers.on(ExportUser)
async def export_user(query: ExportUser, ctx: Context) -> UserRequests:
    return await privacy.export(ctx, query.user_id, query.organization_id)


@handlers.on(UserErased)
async def user_erased(event: UserErased, ctx: Context) -> None:
    await privacy.forget(ctx, event.user_id)
