"""Looking into the log: a page at a time."""

from typing import Any, Final

from libs.common import actor, paging
from libs.common.contracts.auth.audit import LATEST, AuditEntry, AuditFilter, ListAudit
from libs.common.contracts.paging import Page
from libs.common.database import EVERY_ORGANIZATION, Database
from services.auth.audit.chain import moment
from services.auth.audit.lines import shown
from services.auth.store import audit as store
from services.auth.store.audit import Entry

MOST_BIGINT: Final = 2**63 - 1


async def entries(db: Database, query: ListAudit) -> Page[AuditEntry]:
    """Newest first, or oldest: in the order in which they were recorded. Raises ``InvalidRequest`` for a bad cursor."""
    cursor = paging.decode(query.paging.cursor, int)
    # Row-level security would do, but cannot use an index.
    own = "" if query.every_organization else actor.current().organization_id
    wanted, limit = _wanted(query.filter, own), query.paging.limit + 1
    async with db.transaction(EVERY_ORGANIZATION if query.every_organization else None) as tx:
        if query.oldest_first:
            rows = await store.oldest_entries(tx, wanted | {"after": _seq(cursor, 0)}, limit)
        else:
            rows = await store.newest_entries(tx, wanted | {"before": _seq(cursor, MOST_BIGINT)}, limit)
    return paging.page(rows, query.paging, _entry, lambda row: [row.seq])


def _seq(cursor: tuple[str | float, ...] | None, otherwise: int) -> int:
    return otherwise if cursor is None else max(0, min(int(cursor[0]), MOST_BIGINT))


def _wanted(chosen: AuditFilter, own_organization: str) -> dict[str, Any]:
    """What is empty is not asked for."""
    everything, prefix = chosen.action.endswith("*"), chosen.action.removesuffix("*")
    wanted = chosen.model_dump() | {
        "organization_id": chosen.organization_id or own_organization,
        "action": "" if everything else chosen.action,
        "action_prefix": prefix if everything else "",
        "since": moment(chosen.since) if chosen.since > 0 else None,
        "until": moment(chosen.until) if chosen.until < LATEST else None,
    }
    return {name: value for name, value in wanted.items() if value}


def _entry(row: Entry) -> AuditEntry:
    return AuditEntry.model_validate(shown(row))
