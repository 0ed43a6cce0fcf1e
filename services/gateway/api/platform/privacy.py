"""One person's data: handed out, and forgotten."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field, Secret

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.auth.privacy import EraseOwn, EraseUser, ExportUser, UserExport
from libs.common.contracts.permissions import Permission
from services.gateway.api.platform.auth import PASSWORD_SECONDS, Password
from services.gateway.api.platform.body import Body
from services.gateway.api.platform.caller import Ctx, needs
from services.gateway.api.platform.second_factor import Code

router = APIRouter(prefix="/users", tags=["users"])

Manager = Annotated[Identity, needs(Permission.USER_MANAGE)]

# Three services gather it.
EXPORT_SECONDS = 30


class Confirmation(Body):
    password: Password = Field(description="the caller's, once more", examples=["correct horse battery staple"])
    code: Code = Field(
        default_factory=lambda: Secret(""), description="of the second factor, for who has one", examples=["123456"]
    )


@router.get("/profile/export")
async def export_own(ctx: Ctx, _caller: Annotated[Identity, needs(Permission.SELF_READ)]) -> UserExport:
    """All that the installation has of the caller, as one JSON document: the newest 5000 rows of each list.

    Needs a login session. 503 unless all services answer, since half an export is none, and while others are exporting.
    """
    return await ctx.bus.ask(ExportUser(), timeout=EXPORT_SECONDS)


@router.get("/{user_id}/export")
async def export(user_id: UUID, ctx: Ctx, _caller: Manager) -> UserExport:
    """The same of a member, as far as it is about the caller's organization; all of anybody's, for who manages tenants.

    403 unless the caller may read requests, usage and audit, too. 404 for who is no member.
    """
    return await ctx.bus.ask(ExportUser(user_id=str(user_id)), timeout=EXPORT_SECONDS)


@router.post("/profile/erase", status_code=204)
async def erase_own(body: Confirmation, ctx: Ctx, _caller: Annotated[Identity, needs(Permission.SELF_MANAGE)]) -> None:
    """Deletes the caller's account in all organizations: sessions, keys, second factor, prompts and answers.

    Usage stays counted without a name; the audit log keeps what was done, under the user's id alone. There is no way
    back. Needs a login session. 403 for a wrong password or code, 409 if an organization would lose its last admin.
    """
    query = EraseOwn(password=body.password.get_secret_value(), code=body.code.get_secret_value())
    await ctx.bus.ask(query, timeout=PASSWORD_SECONDS)


@router.post("/{user_id}/erase", status_code=204)
async def erase(user_id: UUID, ctx: Ctx, _caller: Manager) -> None:
    """The same for a member.

    403 for oneself, for one who may do more than the caller, and for one who belongs to other organizations too,
    unless the caller manages tenants. 404 for who is no member, 409 if an organization would lose its last admin.
    """
    await ctx.bus.ask(EraseUser(user_id=str(user_id)), timeout=PASSWORD_SECONDS)
