"""Sessions on a real database: refreshed, stolen, listed, ended."""

import asyncio
import time
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg import sql

from libs.common.bus.base import Bus
from libs.common.contracts.auth.audit import RecordAudit
from libs.common.contracts.auth.identity import IdentityChanged, VerifySession
from libs.common.contracts.auth.sessions import EndSession, EndSessions, ListSessions, Login, Refresh, Session
from libs.common.contracts.auth.users import ChangePassword
from libs.common.contracts.message import Message, Query
from libs.common.contracts.paging import PageRequest
from libs.common.database import EVERY_ORGANIZATION
from libs.common.errors import Forbidden, InvalidRequest, NotFound, Unauthenticated
from services.auth.context import Context
from services.auth.store import sessions as session_store
from services.auth.store.users import User
from tests.fixtures.buses import eventually
from tests.integration.auth.conftest import EMAIL, PASSWORD, act_for
from tests.integration.auth.logins import IP, a_user, log_in, session_id, stranger

DAY = 86_400


async def lives(bus: Bus, session: Session) -> bool:
    try:
        await bus.ask(VerifySession(session_id=session_id(session)))
    except Unauthenticated:
        return False
    return True


async def refreshed(bus: Bus, session: Session, **more: str) -> Session:
    stranger()
    return await bus.ask(Refresh(refresh_token=session.refresh_token, **more))


async def age(ctx: Context, column: str, days: int) -> None:
    """All sessions, as if this had been so many days earlier."""
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        statement = "update user_sessions set {0} = {0} - make_interval(days => %s)"
        await tx.execute(sql.SQL(statement).format(sql.Identifier(column)), [days])


async def test_a_session_goes_on_with_each_refresh(bus: Bus) -> None:
    first = await log_in(bus)
    second = await refreshed(bus, first)
    third = await refreshed(bus, second)
    assert session_id(first) == session_id(second) == session_id(third)
    assert len({each.refresh_token for each in (first, second, third)}) == 3
    assert len({each.access_token for each in (first, second, third)}) == 3
    assert third.refresh_expires_in == pytest.approx(30 * DAY, abs=5)
    assert (third.user.email, third.organization_id, third.expires_in) == (EMAIL.lower(), "default", 900)
    assert await lives(bus, third)


async def test_a_token_that_comes_twice_ends_the_session(bus: Bus, left: list[Message]) -> None:
    stolen = await log_in(bus)
    other = await log_in(bus)
    current = await refreshed(bus, stolen)
    with pytest.raises(Unauthenticated):
        await refreshed(bus, stolen)
    with pytest.raises(Unauthenticated):
        await refreshed(bus, current)
    assert not await lives(bus, current)
    assert await lives(bus, other), "another login of the same user"
    await eventually(lambda: IdentityChanged(session_id=session_id(stolen)) in left)
    await eventually(lambda: "session.reuse_detected" in [getattr(each, "action", "") for each in left])
    (event,) = [each for each in left if isinstance(each, RecordAudit) and each.action == "session.reuse_detected"]
    assert (event.object, event.organization_id, event.ip) == (session_id(stolen), "default", IP)
    assert (event.user_id, event.after) == ("", {"user_id": stolen.user.id}), "who did it is not known"


async def test_of_many_refreshes_at_once_one_is_answered_and_the_session_ends(bus: Bus) -> None:
    session = await log_in(bus)
    answers = await asyncio.gather(*(refreshed(bus, session) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(answer, Session) for answer in answers) == 1
    assert not await lives(bus, session)


@pytest.mark.parametrize(
    "token", ["", "omr_x", "omr_" + "a" * 22 + "." + "b" * 43, "\0", "omr_" + "ü" * 22 + "." + "b" * 43]
)
async def test_what_is_no_refresh_token(bus: Bus, token: str) -> None:
    session = await log_in(bus)
    with pytest.raises(Unauthenticated):
        await bus.ask(Refresh(refresh_token=token))
    assert await lives(bus, session)


async def test_whoever_has_only_the_second_half_ends_nothing(bus: Bus) -> None:
    session = await log_in(bus)
    forged = "omr_" + "a" * 22 + session.refresh_token[26:]
    with pytest.raises(Unauthenticated):
        await bus.ask(Refresh(refresh_token=forged))
    assert await lives(bus, session)


async def test_tokens_are_stored_as_hashes(ctx: Context, bus: Bus) -> None:
    session = await log_in(bus)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        rows = await (await tx.execute("select s::text from user_sessions s")).fetchall()
    for half in session.refresh_token.removeprefix("omr_").split("."):
        assert half not in str(rows)


async def test_an_idle_session_ends(ctx: Context, bus: Bus) -> None:
    session = await log_in(bus)
    await age(ctx, "expires_at", 29)
    session = await refreshed(bus, session)
    await age(ctx, "expires_at", 31)
    assert not await lives(bus, session)
    with pytest.raises(Unauthenticated):
        await refreshed(bus, session)


async def test_no_session_goes_on_for_ever(ctx: Context, bus: Bus) -> None:
    session = await log_in(bus)
    await age(ctx, "created_at", 89)
    session = await refreshed(bus, session)
    assert session.refresh_expires_in == pytest.approx(DAY, abs=5)


async def test_a_removed_member_has_no_sessions_and_gets_none(ctx: Context, bus: Bus, admin: User) -> None:
    session = await log_in(bus)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("delete from memberships where user_id = %s", [admin.id])
    assert not await lives(bus, session)
    with pytest.raises(Unauthenticated):
        await refreshed(bus, session)
    with pytest.raises(Unauthenticated, match="wrong email or password"):
        await log_in(bus)


@pytest.mark.parametrize("password", [PASSWORD, "wrong"])
async def test_a_disabled_user_reads_what_a_stranger_reads(ctx: Context, bus: Bus, password: str) -> None:
    session = await log_in(bus)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("update users set disabled_at = now()")
    assert not await lives(bus, session)
    with pytest.raises(Unauthenticated, match="wrong email or password"):
        await log_in(bus, password=password)
    with pytest.raises(Unauthenticated):
        await refreshed(bus, session)


async def another_organization(ctx: Context, admin: User) -> None:
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("insert into organizations (id, name) values ('acme', 'Acme'), ('other', 'Other')")
        await tx.execute(
            "insert into memberships (organization_id, user_id, role) values ('acme', %s, 'readonly')", [admin.id]
        )


async def test_a_login_names_an_organization(ctx: Context, bus: Bus, admin: User) -> None:
    await another_organization(ctx, admin)
    own = await log_in(bus)
    session = await bus.ask(Login(email=EMAIL, password=PASSWORD, organization_id="acme"))
    assert (own.organization_id, own.user.role) == ("default", "admin")
    assert (session.organization_id, session.user.role) == ("acme", "readonly")
    identity = await bus.ask(VerifySession(session_id=session_id(session)))
    assert (identity.organization_id, identity.role) == ("acme", "readonly")
    for unknown in ("other", "nowhere", "*"):
        with pytest.raises(NotFound, match="organization not found"):
            await bus.ask(Login(email=EMAIL, password=PASSWORD, organization_id=unknown))


async def test_a_refresh_moves_to_another_organization(
    ctx: Context, bus: Bus, admin: User, left: list[Message]
) -> None:
    await another_organization(ctx, admin)
    own = await log_in(bus)
    await age(ctx, "created_at", 80)
    moved = await refreshed(bus, own, organization_id="acme")
    assert (moved.organization_id, moved.user.role) == ("acme", "readonly")
    assert moved.refresh_expires_in == pytest.approx(10 * DAY, abs=5), "it is still the same login"
    assert await lives(bus, moved)
    assert not await lives(bus, own), "a token of the one never works in the other"
    await eventually(lambda: IdentityChanged(session_id=session_id(own)) in left)
    with pytest.raises(NotFound):
        await refreshed(bus, moved, organization_id="other")
    assert (await refreshed(bus, moved)).organization_id == "acme", "what failed used nothing up"


async def test_own_sessions_are_listed_in_pages(bus: Bus) -> None:
    made = [await log_in(bus, ip=f"203.0.113.{number}") for number in range(3)]
    first = await bus.ask(ListSessions(paging=PageRequest(limit=2)))
    assert first.next_cursor is not None
    rest = await bus.ask(ListSessions(paging=PageRequest(limit=2, cursor=first.next_cursor)))
    listed = [*first.items, *rest.items]
    assert [each.id for each in listed] == [session_id(each) for each in reversed(made)]
    assert [each.current for each in listed] == [True, False, False]
    assert [each.ip for each in listed] == ["203.0.113.2", "203.0.113.1", "203.0.113.0"]
    assert {each.user_agent for each in listed} == {"curl/8"}
    assert listed[0].last_used_at == pytest.approx(time.time(), abs=5)
    assert rest.next_cursor is None


@pytest.mark.parametrize("cursor", ["AAAA", "WyJhIiwiYiJd", "WzEsMl0="])
async def test_bad_cursors(bus: Bus, cursor: str) -> None:
    await log_in(bus)
    with pytest.raises(InvalidRequest, match="cursor"):
        await bus.ask(ListSessions(paging=PageRequest(cursor=cursor)))


async def test_a_session_ends_by_its_id_or_as_the_current_one(bus: Bus, left: list[Message]) -> None:
    other, current = await log_in(bus), await log_in(bus)
    await bus.ask(EndSession(session_id=session_id(other)))
    await bus.ask(EndSession())
    assert not await lives(bus, other)
    assert not await lives(bus, current)
    for ended in (other, current):
        await eventually(lambda ended=ended: IdentityChanged(session_id=session_id(ended)) in left)  # type: ignore[misc]
    await bus.ask(EndSession())
    with pytest.raises(NotFound):
        await bus.ask(EndSession(session_id=session_id(other)))
    with pytest.raises(Unauthenticated):
        await refreshed(bus, current)


async def test_nobody_sees_or_ends_the_sessions_of_others(bus: Bus) -> None:
    of_admin = await log_in(bus)
    await a_user(bus)
    own = await log_in(bus, "ada@b.example")
    assert [each.id for each in (await bus.ask(ListSessions())).items] == [session_id(own)]
    for identifier in (session_id(of_admin), str(uuid4()), "no uuid"):
        with pytest.raises(NotFound, match="session not found"):
            await bus.ask(EndSession(session_id=identifier))
    await bus.ask(EndSessions())
    assert await lives(bus, of_admin)
    assert not await lives(bus, own)


async def test_all_sessions_end_or_all_others(bus: Bus) -> None:
    others, current = [await log_in(bus) for _ in range(2)], await log_in(bus)
    await bus.ask(EndSessions(keep_current=True))
    assert [await lives(bus, each) for each in (*others, current)] == [False, False, True]
    await bus.ask(EndSessions())
    assert not await lives(bus, current)


async def test_an_api_key_is_no_login(bus: Bus, admin: User) -> None:
    act_for(admin)
    queries: list[Query[Any]] = [ListSessions(), EndSession(), EndSessions()]
    for query in (*queries, ChangePassword(current=PASSWORD, new="a new password")):
        with pytest.raises(Forbidden, match="needs a login"):
            await bus.ask(query)


async def test_too_many_sessions_end_those_unused_for_longest(ctx: Context, bus: Bus) -> None:
    first, second = await log_in(bus), await log_in(bus)
    first = await refreshed(bus, first)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await session_store.end_oldest(tx, UUID(first.user.id), keep=1)
    assert await lives(bus, first)
    assert not await lives(bus, second)


async def test_a_login_makes_room_for_itself(ctx: Context, bus: Bus) -> None:
    made = [await log_in(bus) for _ in range(ctx.settings.max_sessions_per_user + 1)]
    assert [await lives(bus, each) for each in (made[0], made[1], made[-1])] == [False, True, True]


async def test_ended_sessions_are_deleted_after_a_while(ctx: Context, bus: Bus) -> None:
    ended, _live = await log_in(bus), await log_in(bus)
    await bus.ask(EndSession(session_id=session_id(ended)))
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        assert await session_store.delete_ended(tx, 3600) == 0
    await age(ctx, "ended_at", 1)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        assert await session_store.delete_ended(tx, 3600) == 1


async def test_a_login_is_told_to_the_audit_log(bus: Bus, left: list[Message]) -> None:
    session = await log_in(bus)
    await eventually(lambda: "login.succeeded" in [getattr(each, "action", "") for each in left])
    (event,) = [each for each in left if isinstance(each, RecordAudit) and each.action == "login.succeeded"]
    assert (event.user_id, event.session_id) == (session.user.id, session_id(session))
    assert (event.organization_id, event.ip, event.user_agent) == ("default", IP, "curl/8")
