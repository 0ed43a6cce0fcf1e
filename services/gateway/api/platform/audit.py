"""The audit log: what was changed, and what was refused, by whom and from where."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import StreamingResponse

from libs.common.contracts.auth.audit import LATEST, AuditEntry, AuditFilter, ListAudit
from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.paging import MOST_ITEMS, Page, PageRequest
from libs.common.contracts.permissions import Permission
from services.gateway.api.platform.caller import Ctx, needs
from services.gateway.api.platform.pages import Paging
from services.gateway.context import Context

router = APIRouter(prefix="/system/audit", tags=["audit"])

Auditor = Annotated[Identity, needs(Permission.AUDIT_READ)]
Time = Annotated[float, Field(ge=0, le=LATEST, allow_inf_nan=False, description="seconds since the epoch")]
LINES: dict[int | str, dict[str, Any]] = {
    200: {"description": "a line of JSON for each entry", "content": {"application/x-ndjson": {}}}
}


class Wanted(AuditFilter):
    """With the names that all lists use."""

    since: Time = Field(0, alias="from")
    until: Time = Field(LATEST, alias="to")


Filter = Annotated[Wanted, Query()]


@router.get("")
async def audit(ctx: Ctx, caller: Auditor, paging: Paging, wanted: Filter) -> Page[AuditEntry]:
    """Newest first. With `cluster:manage` of all organizations, else of your own.

    `action` is `<table>.insert`, `.update` or `.delete` with the row `before` and `after`, secrets masked, or
    `<what>.<happened>`, as in `login.failed`.
    """
    return await ctx.bus.ask(ListAudit(filter=_filter(wanted), every_organization=_sees_all(caller), paging=paging))


@router.get("/export", response_class=StreamingResponse, responses=LINES)
async def export(ctx: Ctx, caller: Auditor, wanted: Filter) -> StreamingResponse:
    """All of them, oldest first, as lines of JSON."""
    first = await _page(ctx, caller, wanted, "")
    return StreamingResponse(_lines(ctx, caller, wanted, first), media_type="application/x-ndjson")


async def _lines(ctx: Context, caller: Identity, wanted: Wanted, page: Page[AuditEntry]) -> AsyncIterator[str]:
    while True:
        yield "".join(entry.model_dump_json() + "\n" for entry in page.items)
        if page.next_cursor is None:
            return
        page = await _page(ctx, caller, wanted, page.next_cursor)


async def _page(ctx: Context, caller: Identity, wanted: Wanted, cursor: str) -> Page[AuditEntry]:
    return await ctx.bus.ask(
        ListAudit(
            filter=_filter(wanted),
            every_organization=_sees_all(caller),
            oldest_first=True,
            paging=PageRequest(limit=MOST_ITEMS, cursor=cursor),
        ),
        timeout=30,
    )


def _filter(wanted: Wanted) -> AuditFilter:
    return AuditFilter(**wanted.model_dump())


def _sees_all(caller: Identity) -> bool:
    return Permission.CLUSTER_MANAGE in caller.permissions
