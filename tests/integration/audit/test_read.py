"""Pages of the log, each organization's own."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from libs.common import actor
from libs.common.contracts.auth.audit import AuditEntry, AuditFilter, ListAudit
from libs.common.contracts.paging import PageRequest
from libs.common.errors import InvalidRequest
from services.auth.audit import read
from services.auth.audit.log import AuditLog
from tests.integration.audit.conftest import an_event


@pytest.fixture
async def log(audit_log: AuditLog) -> AsyncIterator[AuditLog]:
    for number in range(1, 13):
        await audit_log.append(
            [
                an_event(
                    at=float(number),
                    object=f"o{number}",
                    action="login.failed" if number % 2 else "users.update",
                    organization_id=("acme", "other", "")[number % 3],
                    user_id=f"u{number % 2}",
                    ip="::1" if number < 4 else "10.0.0.1",
                    request_id=f"r{number}",
                    after={"n": number},
                )
            ]
        )
    actor.become(actor.Actor(organization_id="acme"))
    yield audit_log
    actor.become(actor.SYSTEM)


async def found(log: AuditLog, *, every: bool = False, oldest_first: bool = False, **wanted: object) -> list[str]:
    """Objects, over all pages."""
    actor.become(actor.Actor(organization_id="acme"))
    entries: list[AuditEntry] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await read.entries(
            log.db,
            ListAudit(
                filter=AuditFilter.model_validate(wanted),
                every_organization=every,
                oldest_first=oldest_first,
                paging=PageRequest(limit=2, cursor=cursor),
            ),
        )
        entries += page.items
        cursor = page.next_cursor
    return [entry.object for entry in entries]


async def test_own_organization_newest_first(log: AuditLog) -> None:
    assert await found(log) == ["o12", "o9", "o6", "o3"]
    assert await found(log, oldest_first=True) == ["o3", "o6", "o9", "o12"]


async def test_every_organization(log: AuditLog) -> None:
    assert await found(log, every=True) == [f"o{number}" for number in range(12, 0, -1)]
    assert await found(log, every=True, organization_id="other") == ["o10", "o7", "o4", "o1"]


async def test_others_are_not_there(log: AuditLog) -> None:
    assert await found(log, organization_id="other") == []
    assert await found(log, object="o10") == []


async def test_filters(log: AuditLog) -> None:
    assert await found(log, every=True, user_id="u0", ip="::1") == ["o2"]
    assert await found(log, action="login.*") == ["o9", "o3"]
    assert await found(log, action="login.fail") == []
    assert await found(log, action="users.update", since=7) == ["o12"]
    assert await found(log, since=6, until=12) == ["o9", "o6"]
    assert await found(log, request_id="r6") == ["o6"]
    assert await found(log, object="o6' or true --") == []


async def test_an_entry_as_it_was_recorded(log: AuditLog) -> None:
    actor.become(actor.Actor(organization_id="acme"))
    page = await read.entries(log.db, ListAudit(paging=PageRequest(limit=1)))
    (entry,) = page.items
    assert (entry.seq, entry.at, entry.after, entry.action, entry.before) == (12, 12.0, {"n": 12}, "users.update", None)


@pytest.mark.parametrize("cursor", ["WzFd", "bm9uZQ==", "WzEuNV0=", "W3RydWVd", "Wy05OTk5OTk5OTk5OTk5OTk5OTk5OTk5XQ=="])
async def test_cursors_that_are_none(log: AuditLog, cursor: str) -> None:
    query = ListAudit(every_organization=True, paging=PageRequest(cursor=cursor))
    try:
        page = await asyncio.wait_for(read.entries(log.db, query), 5)
    except InvalidRequest:
        return
    assert page.items == ()
