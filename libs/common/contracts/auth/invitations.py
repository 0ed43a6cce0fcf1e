"""Invitations: a token for one address, once, to become a member."""

from pydantic import Field

from libs.common.contracts.auth.members import Member
from libs.common.contracts.auth.organizations import Organization
from libs.common.contracts.message import Query, Value
from libs.common.contracts.paging import Page, PageRequest


class Invitation(Value):
    """One that is open: neither accepted, withdrawn nor expired. Times are seconds since the epoch."""

    id: str
    email: str
    role: str
    invited_by: str | None = Field(None, description="user id")
    created_at: float
    expires_at: float


class CreatedInvitation(Invitation):
    token: str = Field(repr=False, description="omi_...; shown once, stored only as a hash")


class ListInvitations(Query[Page[Invitation]]):
    """Newest first."""

    organization_id: str
    paging: PageRequest = PageRequest()


class CreateInvitation(Query[CreatedInvitation]):
    """Takes the place of an open one for the same address.

    ``Conflict`` for who is a member or when too many are open, ``InvalidRequest`` for an unknown role or what is no
    address, ``Forbidden`` for a role that may do more than the caller.
    """

    organization_id: str
    email: str
    role: str


class WithdrawInvitation(Query[None]):
    organization_id: str
    invitation_id: str


class Joined(Value):
    """The organization one has become a member of; the next login or refresh may lead to it."""

    organization: Organization
    member: Member


class AcceptInvitation(Query[Joined]):
    """By the caller, whose address it must be for. ``NotFound`` for every token that is of no use to the caller."""

    token: str = Field(repr=False)
