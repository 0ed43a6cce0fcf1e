"""What is staged beside a change leaves with it; the audit triggers stage every change."""

import asyncio
from typing import Any

import pytest

from libs.common import outbox
from libs.common.bus.base import Bus
from libs.common.bus.memory import MemoryBroker, MemoryBus
from libs.common.contracts.auth.audit import RecordAudit
from libs.common.contracts.auth.identity import IdentityChanged
from libs.common.contracts.auth.keys import CreateKey, RevokeKey
from libs.common.contracts.message import Message
from libs.common.database import EVERY_ORGANIZATION, Database
from services.auth.keys import digest_of
from services.auth.store.users import User
from tests.fixtures.buses import eventually
from tests.integration.auth.conftest import act_for


async def staged(db: Database) -> list[tuple[str, dict[str, Any]]]:
    async with db.transaction() as tx:
        rows = await tx.execute("select message, body from outbox order by id")
        return [(name, body) for name, body in await rows.fetchall()]


def audits(left: list[Message], action: str) -> list[RecordAudit]:
    return [message for message in left if isinstance(message, RecordAudit) and message.action == action]


async def test_a_staged_message_leaves_after_its_commit(auth_db: Database, left: list[Message]) -> None:
    async with auth_db.transaction() as tx:
        await outbox.stage(tx, IdentityChanged(user_id="first"))
        await outbox.stage(tx, IdentityChanged(user_id="second"))
        assert left == []
    await eventually(lambda: left == [IdentityChanged(user_id="first"), IdentityChanged(user_id="second")])


async def test_what_is_rolled_back_never_leaves(auth_db: Database, left: list[Message]) -> None:
    async def fail() -> None:
        async with auth_db.transaction() as tx:
            await outbox.stage(tx, IdentityChanged(user_id="never"))
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    async with auth_db.transaction() as tx:
        await outbox.stage(tx, IdentityChanged(user_id="later"))
    await eventually(lambda: left == [IdentityChanged(user_id="later")])


async def test_what_has_left_is_gone(auth_db: Database, left: list[Message]) -> None:
    async with auth_db.transaction() as tx:
        await outbox.stage(tx, IdentityChanged(user_id="u"))
    await eventually(lambda: left)
    async with asyncio.timeout(5):
        while await staged(auth_db):  # noqa: ASYNC110  the effect is in the database
            await asyncio.sleep(0.01)


async def test_what_the_bus_does_not_take_waits(auth_db: Database) -> None:
    async with auth_db.transaction() as tx:
        await outbox.stage(tx, RecordAudit(event_id="e", at=0, service="auth", action="nobody.listens"))
    async with MemoryBus.open(MemoryBroker(), "auth", "alone") as bus:
        relaying = asyncio.create_task(outbox.relay(auth_db, bus, "auth"))
        _, pending = await asyncio.wait([relaying], timeout=0.3)
        relaying.cancel()
    assert pending, "the relay goes on"
    assert [body["event_id"] for _, body in await staged(auth_db)] == ["e"]


async def test_changes_are_audited_with_who_made_them(bus: Bus, admin: User, left: list[Message]) -> None:
    act_for(admin)
    created = await bus.ask(CreateKey(name="laptop"))
    await bus.ask(RevokeKey(key_id=created.id))
    await eventually(lambda: audits(left, "api_keys.update"))
    (made,), (revoked,) = audits(left, "api_keys.insert"), audits(left, "api_keys.update")
    assert (made.service, made.object, made.organization_id, made.user_id) == (
        "auth",
        created.id,
        "default",
        str(admin.id),
    )
    assert made.before is None
    assert made.after is not None
    assert (made.after["name"], made.after["digest"]) == ("laptop", "***")
    assert revoked.before is not None
    assert revoked.after is not None
    assert (revoked.before["revoked_at"], revoked.before["digest"], revoked.after["digest"]) == (None, "***", "***")
    assert revoked.after["revoked_at"] is not None
    assert digest_of(created.key) not in repr(audits(left, "api_keys.insert") + audits(left, "api_keys.update"))


async def test_a_changed_secret_is_masked_and_said_to_have_changed(auth_db: Database, admin: User) -> None:
    async with auth_db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("delete from outbox")
        await tx.execute("update users set password_hash = 'another'")
        await tx.execute("update users set password_hash = password_hash")
    ((name, body),) = await staged(auth_db)
    assert (name, body["action"], body["object"], body.get("user_id", "")) == (
        "auth.RecordAudit",
        "users.update",
        str(admin.id),
        "",
    )
    assert (body["before"]["password_hash"], body["after"]["password_hash"]) == ("***", "*** (changed)")
