"""What is known of one person: handed out, and forgotten."""

from typing import Any

from pydantic import Field

from libs.common.contracts.exports import ExportedRows
from libs.common.contracts.message import Event, Query, Value


class UserExport(Value):
    """All there is of a user, without secrets. Lists are bounded, times are seconds since the epoch."""

    exported_at: float
    organization_id: str | None = Field(
        None, description="the only one it is about; null: all that the user belongs to"
    )
    profile: dict[str, Any] = Field(repr=False)
    memberships: ExportedRows
    invitations: ExportedRows
    sessions: ExportedRows
    keys: ExportedRows
    usage: ExportedRows = Field(description="tokens by day, key and model")
    audit: ExportedRows = Field(description="what the user did, and from where")
    requests: ExportedRows = Field(description="inference requests")
    exchanges: ExportedRows = Field(description="their prompts and answers, if an organization keeps them")
    models: ExportedRows = Field(description="that the user created")
    files: ExportedRows = Field(ExportedRows(), description="of batches; /v1/files hands out what is in them")
    batches: ExportedRows = ExportedRows()
    responses: ExportedRows = Field(ExportedRows(), description="/v1/responses hands out what is in them")


class ExportUser(Query[UserExport]):
    """The caller's own everything, in a login session; or a member's, as far as it is about the caller's organization.

    All of anybody's for who manages tenants.
    ``NotFound``; ``Forbidden`` for who may not read requests, usage and audit anyway. ``Unavailable`` unless all
    services answer: half an export is none.
    """

    user_id: str | None = Field(None, description="null: the caller's own")


class EraseUser(Query[None]):
    """A member's account, everywhere. Sums of usage stay, and the audit log, which knows users by their id alone.

    ``NotFound``; ``Forbidden`` for who may do more than the caller or belongs to other organizations too; ``Conflict``
    if an organization would lose its last admin.
    """

    user_id: str


class EraseOwn(Query[None]):
    """The caller's own account. ``Forbidden`` for API keys and a wrong password or code, ``Conflict`` as above."""

    password: str = Field(repr=False)
    code: str = Field("", repr=False, description="of the second factor, for who has one")


class UserErased(Event):
    """Forget whose it was. Said again for a day: what still ran for the user may have been written down meanwhile."""

    user_id: str
