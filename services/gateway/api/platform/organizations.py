"""Organizations: the tenants. Most installations have one, and need none of this."""

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import ConfigDict, Field
from starlette.responses import Response

from libs.common.contracts.auth.identity import Identity, Weight
from libs.common.contracts.auth.organizations import (
    ORGANIZATION_ID,
    CreateOrganization,
    DeleteOrganization,
    GetOrganization,
    ListOrganizations,
    Organization,
    OrganizationId,
    UpdateOrganization,
)
from libs.common.contracts.paging import Page
from libs.common.contracts.permissions import Permission
from services.gateway.api.platform import etag
from services.gateway.api.platform.body import Body
from services.gateway.api.platform.caller import Ctx, needs
from services.gateway.api.platform.etag import IfMatch
from services.gateway.api.platform.pages import Paging
from services.gateway.api.platform.text import NO_NUL

router = APIRouter(prefix="/organizations", tags=["organizations"])

Member = Annotated[Identity, needs(Permission.SELF_READ)]
Manager = Annotated[Identity, needs(Permission.ORGANIZATION_MANAGE)]
Operator = Annotated[Identity, needs(Permission.TENANT_MANAGE)]
OrganizationInPath = Annotated[str, Path(pattern=ORGANIZATION_ID, examples=["default"])]


class Settings(Body):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "Acme", "description": "", "store_prompts": False}]}
    )

    name: str = Field(min_length=1, max_length=100, pattern=NO_NUL)
    description: str = Field("", max_length=1000, pattern=NO_NUL)
    store_prompts: bool = Field(False, description="keep prompts and answers of its requests, encrypted")
    weight: Weight | None = Field(
        None, description="its share where organizations compete; null: as it is; only for who manages tenants"
    )


class NewOrganization(Settings):
    model_config = ConfigDict(json_schema_extra={"examples": [{"id": "acme", "name": "Acme"}]})

    id: OrganizationId | None = Field(None, description="for ever; made up if absent")


@router.get("")
async def organizations(ctx: Ctx, _caller: Member, paging: Paging) -> Page[Organization]:
    """Those you belong to; all, if you may manage tenants. Newest first."""
    return await ctx.bus.ask(ListOrganizations(paging=paging))


@router.post("", status_code=201)
async def create(body: NewOrganization, ctx: Ctx, response: Response, _caller: Operator) -> Organization:
    """You become its admin. 409 if its id is taken; that of a deleted organization is so for ever."""
    made = await ctx.bus.ask(CreateOrganization(**body.model_dump()))
    etag.tag(response, made.version)
    return made


@router.get("/{organization_id}")
async def organization(
    organization_id: OrganizationInPath, ctx: Ctx, response: Response, _caller: Member
) -> Organization:
    """404 for one that is not yours to see."""
    found = await ctx.bus.ask(GetOrganization(organization_id=organization_id))
    etag.tag(response, found.version)
    return found


@router.put("/{organization_id}")
async def replace(
    organization_id: OrganizationInPath,
    body: Settings,
    ctx: Ctx,
    response: Response,
    _caller: Manager,
    expected: IfMatch,
) -> Organization:
    """Replaces name, description and settings. Whether prompts are stored is decided when a request arrives.

    403 for another weight, unless you manage tenants.
    """
    changed = await ctx.bus.ask(
        UpdateOrganization(organization_id=organization_id, expected_version=expected, **body.model_dump())
    )
    etag.tag(response, changed.version)
    return changed


@router.delete("/{organization_id}", status_code=204)
async def delete(organization_id: OrganizationInPath, ctx: Ctx, _caller: Operator, expected: IfMatch) -> None:
    """Its members, keys and sessions are gone at once; requests that run finish. 409 for the one that runs it all."""
    await ctx.bus.ask(DeleteOrganization(organization_id=organization_id, expected_version=expected))
