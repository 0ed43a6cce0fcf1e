"""Users: who they are in one organization. An account may belong to several, with a role in each."""

from pydantic import Field

from libs.common.contracts.message import Query, Value
from libs.common.contracts.paging import Page, PageRequest


class User(Value):
    id: str
    email: str
    name: str = ""
    organization_id: str
    role: str = Field(description="in this organization")
    disabled: bool = Field(False, description="may not log in; sessions and keys do not work")
    created_at: float = Field(description="seconds since the epoch")
    version: int = Field(description="of the account and the role together")


class CreatedUser(User):
    password: str | None = Field(None, repr=False, description="made for the user if none was given; shown once")


class GetProfile(Query[User]):
    """The caller's own."""


class UpdateProfile(Query[User]):
    """The caller's own. Another email needs the password; ``Conflict`` if it is somebody else's."""

    name: str
    email: str | None = None
    password: str = Field("", repr=False)
    expected_version: int | None = None


class ListUsers(Query[Page[User]]):
    """Of the caller's organization, newest first."""

    email: str = Field("", description="only addresses that contain this")
    role: str = ""
    paging: PageRequest = PageRequest()


class GetUser(Query[User]):
    """``NotFound`` if the caller's organization has no such member."""

    user_id: str


class CreateUser(Query[CreatedUser]):
    """``Conflict`` if the address has an account; ``Forbidden`` for a role that may do more than the caller."""

    email: str
    name: str = ""
    role: str = "user"
    password: str | None = Field(None, repr=False)


class UpdateUser(Query[User]):
    """What is None stays as it is.

    ``Forbidden`` for a role, old or new, that may do more than the caller, and for name, password and disabling if the
    account belongs to other organizations too. ``Conflict`` if the organization would lose its last admin.
    """

    user_id: str
    name: str | None = None
    role: str | None = None
    disabled: bool | None = None
    password: str | None = Field(None, repr=False)
    expected_version: int | None = None


class RemoveUser(Query[None]):
    """From the caller's organization; an account that belongs to no other is deleted. Raises as ``UpdateUser``."""

    user_id: str
    expected_version: int | None = None


class LogOutUser(Query[None]):
    """Ends a member's sessions in the caller's organization. API keys go on."""

    user_id: str


class ChangePassword(Query[None]):
    """The caller's own; ends all sessions but this one. ``Forbidden`` if the current one is wrong."""

    current: str = Field(repr=False)
    new: str = Field(repr=False)
