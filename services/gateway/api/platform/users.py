"""One's own account, and those of the caller's organization."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field
from starlette.responses import Response

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.auth.sessions import EndSessions
from libs.common.contracts.auth.users import (
    ChangePassword,
    CreatedUser,
    CreateUser,
    GetProfile,
    GetUser,
    ListUsers,
    LogOutUser,
    RemoveUser,
    UpdateProfile,
    UpdateUser,
    User,
)
from libs.common.contracts.paging import Page
from libs.common.contracts.permissions import Permission
from services.gateway.api.platform.auth import PASSWORD_SECONDS, Email, Password
from services.gateway.api.platform.body import Body
from services.gateway.api.platform.caller import Ctx, needs
from services.gateway.api.platform.etag import IfMatch, tag
from services.gateway.api.platform.pages import Paging
from services.gateway.api.platform.text import NO_NUL

router = APIRouter(prefix="/users", tags=["users"])

Reader = Annotated[Identity, needs(Permission.USER_READ)]
Manager = Annotated[Identity, needs(Permission.USER_MANAGE)]
Self = Annotated[Identity, needs(Permission.SELF_READ)]
SelfManager = Annotated[Identity, needs(Permission.SELF_MANAGE)]

Name = Annotated[str, Field(max_length=200, pattern=NO_NUL, examples=["Ada Lovelace"])]
RoleName = Annotated[str, Field(min_length=1, max_length=63, pattern=NO_NUL, examples=["user"])]


class Profile(User):
    permissions: tuple[str, ...] = Field(description="what the caller may do here")


class NewProfile(Body):
    name: Name
    email: Email | None = Field(None, description="as it is if absent; another needs the password")
    password: Password | None = None


class PasswordChange(Body):
    current: Password = Field(examples=["correct horse battery staple"])
    new: Password = Field(examples=["incorrect zebra generator paperclip"])


class NewUser(Body):
    email: Email
    name: Name = ""
    role: RoleName = "user"
    password: Password | None = Field(None, description="one is made, and answered once, if absent")


class ChangedUser(Body):
    """What is absent stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "Ada Lovelace", "role": "operator"}]})

    name: Name | None = None
    role: RoleName | None = None
    disabled: bool | None = Field(None, description="may not log in; sessions and keys stop at once")
    password: Password | None = Field(None, description="for a user who has forgotten the old one; ends all sessions")


@router.get("/profile")
async def profile(response: Response, ctx: Ctx, caller: Self) -> Profile:
    """Who the caller is, in which organization, and what the caller may do."""
    user = await ctx.bus.ask(GetProfile())
    tag(response, user.version)
    return Profile(**user.model_dump(), permissions=tuple(sorted(caller.permissions)))


@router.put("/profile")
async def change_profile(
    body: NewProfile, response: Response, ctx: Ctx, expected: IfMatch, caller: SelfManager
) -> Profile:
    """Name and email. 403 for an API key and for a wrong password, 409 for an address that has an account."""
    query = UpdateProfile(
        name=body.name, email=body.email, password=_plain(body.password) or "", expected_version=expected
    )
    user = await ctx.bus.ask(query, timeout=PASSWORD_SECONDS)
    tag(response, user.version)
    return Profile(**user.model_dump(), permissions=tuple(sorted(caller.permissions)))


@router.post("/password", status_code=204)
async def change_password(body: PasswordChange, ctx: Ctx, _caller: SelfManager) -> None:
    """The caller's own. All other sessions end; API keys go on. 403 for an API key and for a wrong password."""
    query = ChangePassword(current=body.current.get_secret_value(), new=body.new.get_secret_value())
    await ctx.bus.ask(query, timeout=PASSWORD_SECONDS)


@router.post("/logout", status_code=204)
async def log_out_everywhere(ctx: Ctx, _caller: SelfManager) -> None:
    """Ends all of the caller's sessions, this one too. API keys go on. 403 for an API key."""
    await ctx.bus.ask(EndSessions())


@router.get("")
async def users(
    ctx: Ctx,
    paging: Paging,
    _caller: Reader,
    email: Annotated[str, Query(max_length=320, pattern=NO_NUL, description="only addresses that contain this")] = "",
    role: Annotated[str, Query(max_length=63, pattern=NO_NUL)] = "",
) -> Page[User]:
    """Of the caller's organization, newest first."""
    return await ctx.bus.ask(ListUsers(email=email, role=role, paging=paging))


@router.post("", status_code=201)
async def create(body: NewUser, response: Response, ctx: Ctx, _caller: Manager) -> CreatedUser:
    """A new account in the caller's organization. Who has an account already is invited instead: 409.

    403 for a role that may do more than the caller, 400 for a bad password, 429 after several 409.
    """
    query = CreateUser(email=body.email, name=body.name, role=body.role, password=_plain(body.password))
    created = await ctx.bus.ask(query, timeout=PASSWORD_SECONDS)
    tag(response, created.version)
    return created


@router.get("/{user_id}")
async def user(user_id: UUID, response: Response, ctx: Ctx, _caller: Reader) -> User:
    """404 for who is no member of the caller's organization."""
    found = await ctx.bus.ask(GetUser(user_id=str(user_id)))
    tag(response, found.version)
    return found


@router.put("/{user_id}")
async def change(
    user_id: UUID, body: ChangedUser, response: Response, ctx: Ctx, expected: IfMatch, _caller: Manager
) -> User:
    """Effective at once, everywhere.

    403 for members who may do more than the caller, and for roles that do. Name, password and disabling belong to the
    account: 403 if that is in other organizations too. A password needs a login session. 409 if an organization would
    have no admin left who can log in.
    """
    query = UpdateUser(
        user_id=str(user_id),
        name=body.name,
        role=body.role,
        disabled=body.disabled,
        password=_plain(body.password),
        expected_version=expected,
    )
    changed = await ctx.bus.ask(query, timeout=PASSWORD_SECONDS)
    tag(response, changed.version)
    return changed


@router.delete("/{user_id}", status_code=204)
async def remove(user_id: UUID, ctx: Ctx, expected: IfMatch, _caller: Manager) -> None:
    """From the caller's organization, with the keys and sessions here. An account that is in no other is deleted.

    403 for members who may do more than the caller, 409 for the last admin.
    """
    await ctx.bus.ask(RemoveUser(user_id=str(user_id), expected_version=expected))


@router.post("/{user_id}/logout", status_code=204)
async def log_out(user_id: UUID, ctx: Ctx, _caller: Manager) -> None:
    """Ends a member's sessions in the caller's organization. API keys go on.

    403 for members who may do more than the caller.
    """
    await ctx.bus.ask(LogOutUser(user_id=str(user_id)))


def _plain(password: Password | None) -> str | None:
    return None if password is None else password.get_secret_value()
