"""Users, and one's own account."""

from libs.common.bus.base import Handlers
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
from services.auth import profile, users
from services.auth.context import Context

handlers = Handlers("auth")


@handlers.on(GetProfile)
async def get_profile(_query: GetProfile, ctx: Context) -> User:
    return await profile.get(ctx)


@handlers.on(UpdateProfile)
async def update_profile(query: UpdateProfile, ctx: Context) -> User:
    return await profile.update(ctx, query)


@handlers.on(ChangePassword)
async def change_password(query: ChangePassword, ctx: Context) -> None:
    await profile.change_password(ctx, query.current, query.new)


@handlers.on(ListUsers)
async def list_users(query: ListUsers, ctx: Context) -> Page[User]:
    return await users.list_all(ctx, query)


@handlers.on(GetUser)
async def get_user(query: GetUser, ctx: Context) -> User:
    return await users.get(ctx, query.user_id)


@handlers.on(CreateUser)
async def create_user(query: CreateUser, ctx: Context) -> CreatedUser:
    return await users.create(ctx, query)


@handlers.on(UpdateUser)
async def update_user(query: UpdateUser, ctx: Context) -> User:
    return await users.update(ctx, query)


@handlers.on(RemoveUser)
async def remove_user(query: RemoveUser, ctx: Context) -> None:
    await users.remove(ctx, query.user_id, query.expected_version)


@handlers.on(LogOutUser)
async def log_out_user(query: LogOutUser, ctx: Context) -> None:
    await users.log_out(ctx, query.user_id)
