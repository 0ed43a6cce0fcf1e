"""Members: users in an organization, each with a role."""

from pydantic import Field

from libs.common.contracts.message import Query, Value
from libs.common.contracts.paging import Page, PageRequest


class Member(Value):
    user_id: str
    email: str
    role: str
    joined_at: float = Field(description="seconds since the epoch")
    disabled: bool = Field(False, description="may not log in, and none of the keys works")
    version: int


class ListMembers(Query[Page[Member]]):
    """Newest first. ``NotFound`` for an organization that is not the caller's to see."""

    organization_id: str
    role: str = Field("", description="only those with this role")
    paging: PageRequest = PageRequest()


class GetMember(Query[Member]):
    organization_id: str
    user_id: str


class AddMember(Query[Member]):
    """An existing user, without being asked: only those who manage tenants may. Others invite.

    ``NotFound`` for an unknown user, ``Conflict`` for a member, ``InvalidRequest`` for an unknown role,
    ``Forbidden`` for a role that may do more than the caller.
    """

    organization_id: str
    email: str
    role: str


class UpdateMember(Query[Member]):
    """``Conflict`` for the last admin; ``Forbidden`` for a role, old or new, that may do more than the caller."""

    organization_id: str
    user_id: str
    role: str
    expected_version: int | None = None


class RemoveMember(Query[None]):
    """With the member's keys and sessions here. ``Conflict`` for the last admin."""

    organization_id: str
    user_id: str
    expected_version: int | None = None
