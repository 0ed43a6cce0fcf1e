"""What auth does is in the log, with who did it and without a secret."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest

from libs.common import outbox
from libs.common.bus.base import Bus
from libs.common.contracts.auth.invitations import CreateInvitation
from libs.common.contracts.auth.keys import CreateKey, RevokeKey
from libs.common.contracts.auth.sessions import Login, Refresh
from libs.common.contracts.auth.users import ChangePassword, CreateUser
from libs.common.database import EVERY_ORGANIZATION, Database
from libs.common.errors import Unauthenticated
from services.auth.audit.verify import verify
from services.auth.context import Context
from services.auth.store import audit as store
from services.auth.store.audit import Entry
from services.auth.store.users import User
from tests.integration.auth.conftest import EMAIL, PASSWORD
from tests.integration.auth.logins import IP, act_in, log_in, session_id, stranger
from tests.integration.auth.test_second_factor import a_second_factor, logged_in  # noqa: F401  a fixture

WRONG, NEW, GIVEN = "wrong horse battery", "new horse battery staple", "given horse battery staple"


@pytest.fixture
async def recording(ctx: Context) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(outbox.relay(ctx.db, ctx.bus, "auth")), asyncio.create_task(ctx.audit.events.run())]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def log_of(db: Database, last_action: str) -> list[Entry]:
    """Once it has this action."""
    async with asyncio.timeout(10):
        while True:
            async with db.transaction(EVERY_ORGANIZATION) as tx:
                entries = [entry async for entry in store.entries(tx)]
            if any(entry.action == last_action for entry in entries):
                return entries
            await asyncio.sleep(0.05)


async def secrets_of_a_day(ctx: Context, bus: Bus, admin: User) -> list[str]:
    """Everything an account can do that has to do with secrets; those that were used."""
    stranger()
    with pytest.raises(Unauthenticated):
        await bus.ask(Login(email=EMAIL, password=WRONG))
    session = await log_in(bus)
    key = await bus.ask(CreateKey(name="laptop"))
    invitation = await bus.ask(CreateInvitation(organization_id="default", email="new@example.com", role="user"))
    await bus.ask(CreateUser(email="other@example.com", password=GIVEN))
    await bus.ask(ChangePassword(current=PASSWORD, new=NEW))
    refreshed = await bus.ask(Refresh(refresh_token=session.refresh_token))
    await bus.ask(RevokeKey(key_id=key.id))
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        rows = await tx.execute("select password_hash from users")
        hashes = [text for (text,) in await rows.fetchall()]
    shown = [session.access_token, session.refresh_token, refreshed.access_token, refreshed.refresh_token]
    shown += [key.key, invitation.token]
    digests = [hashlib.sha256(secret.encode()).hexdigest() for secret in shown]
    return [PASSWORD, NEW, GIVEN, WRONG, *hashes, *shown, *digests]


async def test_no_secret_is_in_the_log(ctx: Context, bus: Bus, admin: User, recording: None) -> None:
    totp, codes = await a_second_factor(bus, admin)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("delete from user_totp")
        await tx.execute("delete from recovery_codes")
    secrets = [totp, *codes, *(code.replace("-", "") for code in codes), *await secrets_of_a_day(ctx, bus, admin)]
    text = repr(await log_of(ctx.db, "api_keys.update"))
    assert "users.update" in text
    assert "recovery_codes.insert" in text
    assert [secret for secret in secrets if secret in text] == []


async def test_the_log_says_who_and_from_where(ctx: Context, bus: Bus, admin: User, recording: None) -> None:
    session = await log_in(bus)
    key = await bus.ask(CreateKey(name="laptop"))
    entries = await log_of(ctx.db, "api_keys.insert")
    made = next(entry for entry in entries if entry.action == "api_keys.insert")
    assert (made.object, made.organization_id, made.user_id) == (key.id, "default", str(admin.id))
    assert (made.session_id, made.ip, made.user_agent) == (session_id(session), IP, "curl/8")
    assert {"login.succeeded", "users.insert", "memberships.insert"} <= {entry.action for entry in entries}
    assert [problem async for problem in verify(ctx.db, ctx.audit.chain)] == []


async def test_using_a_key_is_no_change(ctx: Context, bus: Bus, admin: User) -> None:
    act_in(await log_in(bus))
    await bus.ask(CreateKey(name="laptop"))
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("delete from outbox")
        assert (await tx.execute("update api_keys set last_used_at = now()")).rowcount == 1
        assert (await tx.execute("select from outbox")).rowcount == 0
        assert (await tx.execute("update api_keys set name = 'desktop', last_used_at = null")).rowcount == 1
        assert (await tx.execute("select from outbox")).rowcount == 1
