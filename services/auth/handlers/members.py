"""Members."""

from libs.common.bus.base import Handlers
from libs.common.contracts.auth.members import AddMember, GetMember, ListMembers, Member, RemoveMember, UpdateMember
from libs.common.contracts.paging import Page
from services.auth import members
from services.auth.context import Context

handlers = Handlers("auth")


@handlers.on(ListMembers)
async def list_members(query: ListMembers, ctx: Context) -> Page[Member]:
    return await members.list_of(ctx, query)


@handlers.on(GetMember)
async def get_member(query: GetMember, ctx: Context) -> Member:
    return await members.get(ctx, query.organization_id, query.user_id)


@handlers.on(AddMember)
async def add_member(query: AddMember, ctx: Context) -> Member:
    return await members.add(ctx, query)


@handlers.on(UpdateMember)
async def update_member(query: UpdateMember, ctx: Context) -> Member:
    return await members.update(ctx, query)


@handlers.on(RemoveMember)
async def remove_member(query: RemoveMember, ctx: Context) -> None:
    await members.remove(ctx, query)
