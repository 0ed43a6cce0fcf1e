"""The audit log."""

from libs.common.bus.base import Ack, Delivery, Handlers
from libs.common.contracts.auth.audit import AuditEntry, ListAudit, RecordAudit
from libs.common.contracts.paging import Page
from services.auth.audit import read
from services.auth.audit.log import BATCH
from services.auth.context import Context

handlers = Handlers("auth")


@handlers.on(RecordAudit, ack=Ack.MANUAL, prefetch=BATCH)
async def record_audit(command: RecordAudit, ctx: Context, delivery: Delivery) -> None:
    ctx.audit.events.add(command, delivery)


@handlers.on(ListAudit)
async def list_audit(query: ListAudit, ctx: Context) -> Page[AuditEntry]:
    return await read.entries(ctx.db, query)
