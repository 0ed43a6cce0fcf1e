"""Organizations."""

from libs.common.bus.base import Handlers
from libs.common.contracts.auth.organizations import (
    CreateOrganization,
    DeleteOrganization,
    GetOrganization,
    ListOrganizations,
    Organization,
    UpdateOrganization,
)
from libs.common.contracts.paging import Page
from services.auth import organizations
from services.auth.context import Context

handlers = Handlers("auth")


@handlers.on(ListOrganizations)
async def list_organizations(query: ListOrganizations, ctx: Context) -> Page[Organization]:
    return await organizations.list_of(ctx, query)


@handlers.on(GetOrganization)
async def get_organization(query: GetOrganization, ctx: Context) -> Organization:
    return await organizations.get(ctx, query.organization_id)


@handlers.on(CreateOrganization)
async def create_organization(query: CreateOrganization, ctx: Context) -> Organization:
    return await organizations.create(ctx, query)


@handlers.on(UpdateOrganization)
async def update_organization(query: UpdateOrganization, ctx: Context) -> Organization:
    return await organizations.update(ctx, query)


@handlers.on(DeleteOrganization)
async def delete_organization(query: DeleteOrganization, ctx: Context) -> None:
    await organizations.delete(ctx, query)
