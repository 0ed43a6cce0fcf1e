"""What is remembered of who changed what."""

from typing import Any, Final

from pydantic import Field

from libs.common.contracts.message import Command, Query, Value
from libs.common.contracts.paging import Page, PageRequest

NO_NUL: Final = r"^[^\x00]*$"
LATEST: Final = 253_000_000_000
"""Year 9987: every representation of time can hold it."""


class AuditEvent(Value):
    """What happened, to what, and who did it."""

    event_id: str
    at: float = Field(ge=0, le=LATEST, description="seconds since the epoch")
    service: str
    action: str = Field(description="<table>.insert|update|delete for changes of state, <what>.<happened> for the rest")
    object: str = Field("", description="id of what changed")
    organization_id: str = ""
    user_id: str = Field("", description="who did it; empty: the system itself")
    key_id: str = ""
    session_id: str = ""
    ip: str = ""
    user_agent: str = ""
    request_id: str = ""
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None


class RecordAudit(AuditEvent, Command):
    """Appended to the audit log exactly once, by ``event_id``.

    Most are made by the trigger ``audit_change`` of ``libs/common/schema``, which writes this shape in SQL.
    """


class AuditEntry(AuditEvent):
    """As it stands in the log. The hash covers all of it and the hash of the entry before."""

    seq: int
    recorded_at: float
    previous: str = Field(description="hash of the entry before, in hex")
    hash: str


class AuditFilter(Value):
    """Empty: any."""

    user_id: str = Field("", max_length=100, pattern=NO_NUL, description="who did it")
    action: str = Field("", max_length=200, pattern=NO_NUL, description="`login.failed`; `login.*` is all of them")
    object: str = Field("", max_length=1000, pattern=NO_NUL, description="id of what changed")
    request_id: str = Field("", max_length=100, pattern=NO_NUL)
    ip: str = Field("", max_length=100, pattern=NO_NUL)
    since: float = Field(0, ge=0, le=LATEST, allow_inf_nan=False, description="seconds since the epoch")
    until: float = Field(LATEST, ge=0, le=LATEST, allow_inf_nan=False, description="seconds since the epoch; excluded")
    organization_id: str = Field("", max_length=100, pattern=NO_NUL)


class ListAudit(Query[Page[AuditEntry]]):
    """Of the caller's organization."""

    filter: AuditFilter = AuditFilter()
    every_organization: bool = Field(False, description="and of all others, and what belongs to none")
    oldest_first: bool = False
    paging: PageRequest = PageRequest()
