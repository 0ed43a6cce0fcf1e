"""Organizations: the tenants. Models, keys, requests, usage and audit belong to one; users to one or more."""

from typing import Annotated, Final

from pydantic import Field

from libs.common.contracts.auth.identity import Weight
from libs.common.contracts.message import Event, Query, Value
from libs.common.contracts.paging import Page, PageRequest

ORGANIZATION_ID: Final = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
OrganizationId = Annotated[str, Field(pattern=ORGANIZATION_ID)]


class Organization(Value):
    id: str
    name: str
    description: str = ""
    store_prompts: bool = Field(False, description="prompts and answers of its requests are kept, encrypted")
    weight: float = Field(1.0, description="its share where organizations compete")
    created_at: float = Field(description="seconds since the epoch")
    version: int


class ListOrganizations(Query[Page[Organization]]):
    """Those the caller belongs to; with tenant:manage all. Newest first."""

    paging: PageRequest = PageRequest()


class GetOrganization(Query[Organization]):
    """``NotFound`` for those that ``ListOrganizations`` does not show."""

    organization_id: str


class CreateOrganization(Query[Organization]):
    """The caller becomes its admin. ``Conflict`` if the id is taken."""

    id: OrganizationId | None = Field(None, description="made up if absent")
    name: str
    description: str = ""
    store_prompts: bool = False
    weight: Weight | None = None


class UpdateOrganization(Query[Organization]):
    """``PreconditionFailed`` if its version is another. ``Forbidden`` for a weight that the caller may not give."""

    organization_id: str
    name: str
    description: str = ""
    store_prompts: bool = False
    weight: Weight | None = Field(None, description="null: as it is; another one takes tenant:manage")
    expected_version: int | None = None


class DeleteOrganization(Query[None]):
    """With everything auth keeps of it; the others hear ``OrganizationDeleted``. ``Conflict`` for the operating one."""

    organization_id: str
    expected_version: int | None = None


class OrganizationDeleted(Event):
    """Its id is never given again."""

    organization_id: str
