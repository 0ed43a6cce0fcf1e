"""Roles."""

from libs.common.bus.base import Handlers
from libs.common.contracts.auth.roles import CreateRole, DeleteRole, GetRole, ListRoles, Role, UpdateRole
from libs.common.contracts.paging import Page
from services.auth import roles
from services.auth.context import Context

handlers = Handlers("auth")


@handlers.on(ListRoles)
async def list_roles(query: ListRoles, ctx: Context) -> Page[Role]:
    return await roles.list_of(ctx, query)


@handlers.on(GetRole)
async def get_role(query: GetRole, ctx: Context) -> Role:
    return await roles.get(ctx, query.organization_id, query.name)


@handlers.on(CreateRole)
async def create_role(query: CreateRole, ctx: Context) -> Role:
    return await roles.create(ctx, query)


@handlers.on(UpdateRole)
async def update_role(query: UpdateRole, ctx: Context) -> Role:
    return await roles.update(ctx, query)


@handlers.on(DeleteRole)
async def delete_role(query: DeleteRole, ctx: Context) -> None:
    await roles.delete(ctx, query)
