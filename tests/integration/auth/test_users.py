"""Users as their admins see and change them, on a real database."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pyotp
import pytest

from libs.common.bus.base import Bus
from libs.common.contracts.auth.identity import IdentityChanged, VerifyKey, VerifySession
from libs.common.contracts.auth.keys import CreateKey
from libs.common.contracts.auth.second_factor import ActivateTotp, OfferTotp
from libs.common.contracts.auth.sessions import Session
from libs.common.contracts.auth.users import (
    CreateUser,
    GetUser,
    ListUsers,
    LogOutUser,
    RemoveUser,
    UpdateUser,
)
from libs.common.contracts.message import Message, Query
from libs.common.contracts.paging import PageRequest
from libs.common.database import EVERY_ORGANIZATION
from libs.common.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    PreconditionFailed,
    RateLimited,
    Unauthenticated,
)
from services.auth import identities
from services.auth.context import Context
from services.auth.keys import digest_of
from services.auth.lockout import ACCOUNT
from services.auth.store.users import User
from tests.fixtures.buses import eventually
from tests.integration.auth.conftest import EMAIL, PASSWORD, act_for
from tests.integration.auth.logins import a_user, act_in, log_in, session_id
from tests.integration.auth.people import Person, a_person, a_role, joins

ADA, EVE = "ada@b.example", "eve@b.example"
NEW = "another good one"


async def lives(bus: Bus, session: Session) -> bool:
    try:
        await bus.ask(VerifySession(session_id=session_id(session)))
    except Unauthenticated:
        return False
    return True


async def custom_role(ctx: Context, name: str, *permissions: str) -> None:
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute(
            "insert into roles (organization_id, name, permissions) values ('default', %s, %s)",
            [name, list(permissions)],
        )


async def join_acme(ctx: Context, user_id: str) -> None:
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("insert into organizations (id, name) values ('acme', 'Acme')")
        await tx.execute(
            "insert into memberships (organization_id, user_id, role) values ('acme', %s, 'user')", [user_id]
        )


async def test_a_new_user_logs_in(bus: Bus) -> None:
    await log_in(bus)
    given = await bus.ask(CreateUser(email=" ADA@b.example", name=" Ada ", role="operator", password=PASSWORD))
    assert (given.email, given.name, given.role, given.password) == (ADA, "Ada", "operator", None)
    made = await bus.ask(CreateUser(email=EVE))
    assert made.role == "user"
    assert made.password is not None
    assert made.password not in repr(made)
    for email, password in ((ADA, PASSWORD), (EVE, made.password)):
        assert (await log_in(bus, email, password)).organization_id == "default"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"email": EMAIL}, Conflict),
        ({"email": "no address"}, InvalidRequest),
        ({"password": "short"}, InvalidRequest),
        ({"role": "nonsense"}, InvalidRequest),
    ],
)
async def test_users_that_are_not_made(bus: Bus, changes: dict[str, str], error: type[Exception]) -> None:
    await log_in(bus)
    with pytest.raises(error):
        await bus.ask(CreateUser.model_validate({"email": ADA, "password": PASSWORD, **changes}))
    assert len((await bus.ask(ListUsers())).items) == 1


async def test_addresses_are_not_tried_out_but_by_who_manages_tenants(ctx: Context, bus: Bus, admin: User) -> None:
    boss = await a_person(ctx.db, "acme", "admin")
    for who, last in ((Person(admin.id, "default", admin.email), Conflict), (boss, RateLimited)):
        who.acts()
        for _ in range(ACCOUNT.failures):
            with pytest.raises(Conflict):
                await bus.ask(CreateUser(email=EMAIL, password=PASSWORD))
        with pytest.raises(last):
            await bus.ask(CreateUser(email=EMAIL, password=PASSWORD))


async def test_users_are_listed_in_pages_and_found(bus: Bus) -> None:
    await log_in(bus)
    made = [await a_user(bus, f"{name}@b.example", role=role) for name, role in (("a", "user"), ("b", "readonly"))]
    first = await bus.ask(ListUsers(paging=PageRequest(limit=2)))
    assert [each.id for each in first.items] == [made[1], made[0]]
    assert first.next_cursor is not None
    last = await bus.ask(ListUsers(paging=PageRequest(limit=2, cursor=first.next_cursor)))
    assert ([each.email for each in last.items], last.next_cursor) == ([EMAIL.lower()], None)
    assert [each.id for each in (await bus.ask(ListUsers(email="A@B"))).items] == [made[0]]
    assert [each.id for each in (await bus.ask(ListUsers(role="readonly"))).items] == [made[1]]
    assert (await bus.ask(ListUsers(email="%"))).items == ()


async def test_of_another_organization_nobody_is_there(ctx: Context, bus: Bus) -> None:
    await log_in(bus)
    ada = await a_user(bus, ADA)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("insert into organizations (id, name) values ('acme', 'Acme')")
        await tx.execute("update memberships set organization_id = 'acme' where user_id = %s", [ada])
    assert [each.email for each in (await bus.ask(ListUsers())).items] == [EMAIL.lower()]
    for user_id in (ada, str(uuid4()), "no uuid"):
        queries: list[Query[Any]] = [GetUser(user_id=user_id), UpdateUser(user_id=user_id, role="user")]
        for query in (*queries, RemoveUser(user_id=user_id), LogOutUser(user_id=user_id)):
            with pytest.raises(NotFound, match="user not found"):
                await bus.ask(query)


async def test_another_role_counts_at_once(bus: Bus, left: list[Message]) -> None:
    admin = await log_in(bus)
    ada = await a_user(bus, ADA)
    of_ada = await log_in(bus, ADA)
    act_in(admin)
    before = await bus.ask(GetUser(user_id=ada))
    after = await bus.ask(UpdateUser(user_id=ada, role="readonly", expected_version=before.version))
    assert (after.role, after.version) == ("readonly", before.version + 1)
    assert await bus.ask(GetUser(user_id=ada)) == after
    await eventually(lambda: IdentityChanged(user_id=ada) in left)
    assert (await bus.ask(VerifySession(session_id=session_id(of_ada)))).role == "readonly"
    with pytest.raises(PreconditionFailed):
        await bus.ask(UpdateUser(user_id=ada, role="user", expected_version=before.version))


async def test_a_disabled_user_stops_at_once_and_comes_back(bus: Bus) -> None:
    admin = await log_in(bus)
    ada = await a_user(bus, ADA)
    of_ada = await log_in(bus, ADA)
    act_in(admin)
    assert (await bus.ask(UpdateUser(user_id=ada, disabled=True))).disabled
    assert not await lives(bus, of_ada)
    with pytest.raises(Unauthenticated):
        await log_in(bus, ADA)
    act_in(admin)
    assert not (await bus.ask(UpdateUser(user_id=ada, disabled=False))).disabled
    assert not await lives(bus, of_ada), "the session has ended"
    await log_in(bus, ADA)


async def test_a_forgotten_password_is_replaced(bus: Bus) -> None:
    admin = await log_in(bus)
    ada = await a_user(bus, ADA)
    of_ada = await log_in(bus, ADA)
    act_in(admin)
    await bus.ask(UpdateUser(user_id=ada, password=NEW))
    assert not await lives(bus, of_ada)
    await log_in(bus, ADA, NEW)
    act_in(admin)
    with pytest.raises(Forbidden, match="your own password"):
        await bus.ask(UpdateUser(user_id=admin.user.id, password=NEW))


async def test_an_api_key_replaces_no_password(bus: Bus, admin: User) -> None:
    await log_in(bus)
    ada = await a_user(bus, ADA)
    act_for(admin)
    with pytest.raises(Forbidden, match="needs a login"):
        await bus.ask(UpdateUser(user_id=ada, password=NEW))


@pytest.mark.parametrize("change", [{"role": "user"}, {"disabled": True}, None])
async def test_an_organization_keeps_an_admin(bus: Bus, change: dict[str, Any] | None) -> None:
    admin = (await log_in(bus)).user.id
    await a_user(bus, ADA)
    query = UpdateUser(user_id=admin, **change) if change else RemoveUser(user_id=admin)
    with pytest.raises(Conflict, match="needs an admin"):
        await bus.ask(query)  # type: ignore[misc]
    await log_in(bus)


async def test_who_is_disabled_leaves_no_organization_without_an_admin(ctx: Context, bus: Bus) -> None:
    await log_in(bus)
    ada = await a_user(bus, ADA)
    await joins(ctx.db, Person(UUID(ada), "acme", ADA), "admin")
    with pytest.raises(Conflict, match="needs an admin"):
        await bus.ask(UpdateUser(user_id=ada, disabled=True))
    await a_person(ctx.db, "acme", "admin")
    assert (await bus.ask(UpdateUser(user_id=ada, disabled=True))).disabled


async def test_two_admins_who_demote_each_other_leave_one(bus: Bus) -> None:
    first = await log_in(bus)
    second = await a_user(bus, ADA, role="admin")
    demote = [UpdateUser(user_id=each, role="user") for each in (first.user.id, second)]
    answers = await asyncio.gather(*map(bus.ask, demote), return_exceptions=True)
    assert sum(isinstance(answer, Exception) for answer in answers) == 1


async def test_nobody_changes_who_may_do_more_or_gives_more_than_they_have(ctx: Context, bus: Bus) -> None:
    admin = await log_in(bus)
    await custom_role(ctx, "clerk", "self:read", "self:manage", "model:read", "user:read", "user:manage")
    await a_user(bus, ADA, role="clerk")
    eve = await a_user(bus, EVE, role="clerk")
    await log_in(bus, ADA)
    queries: list[Query[Any]] = [
        UpdateUser(user_id=admin.user.id, disabled=True),
        UpdateUser(user_id=admin.user.id, password=NEW),
        UpdateUser(user_id=eve, role="admin"),
        RemoveUser(user_id=admin.user.id),
        LogOutUser(user_id=admin.user.id),
        CreateUser(email="mallory@b.example", role="operator", password=PASSWORD),
    ]
    for query in queries:
        with pytest.raises(Forbidden):
            await bus.ask(query)
    assert (await bus.ask(UpdateUser(user_id=eve, name="Eve"))).name == "Eve"


async def test_what_belongs_to_the_account_is_left_to_who_manages_tenants(ctx: Context, bus: Bus) -> None:
    await log_in(bus)
    await custom_role(ctx, "clerk", "self:read", "self:manage", "model:read", "inference:run", "user:manage")
    eve = await a_user(bus, EVE)
    await a_user(bus, ADA, role="clerk")
    await join_acme(ctx, eve)
    await log_in(bus, ADA)
    for change in ({"disabled": True}, {"password": NEW}, {"name": "Eve"}):
        with pytest.raises(Forbidden, match="other organizations"):
            await bus.ask(UpdateUser.model_validate({"user_id": eve, **change}))
    assert (await bus.ask(UpdateUser(user_id=eve, role="clerk"))).role == "clerk"


async def test_who_is_removed_may_come_back(ctx: Context, bus: Bus) -> None:
    admin = await log_in(bus)
    ada = await a_user(bus, ADA)
    of_ada = await log_in(bus, ADA)
    act_in(admin)
    with pytest.raises(PreconditionFailed):
        await bus.ask(RemoveUser(user_id=ada, expected_version=77))
    await bus.ask(RemoveUser(user_id=ada))
    assert not await lives(bus, of_ada)
    with pytest.raises(NotFound):
        await bus.ask(GetUser(user_id=ada))
    assert await a_user(bus, ADA) != ada, "the account was in no other organization"


async def test_who_is_removed_keeps_the_account_elsewhere(ctx: Context, bus: Bus) -> None:
    await log_in(bus)
    ada = await a_user(bus, ADA)
    await join_acme(ctx, ada)
    await bus.ask(RemoveUser(user_id=ada))
    session = await log_in(bus, ADA)
    assert (session.user.id, session.organization_id) == (ada, "acme")


async def test_an_admin_logs_a_member_out_here(ctx: Context, bus: Bus) -> None:
    admin = await log_in(bus)
    ada = await a_user(bus, ADA)
    here = await log_in(bus, ADA)
    act_in(admin)
    await bus.ask(LogOutUser(user_id=ada))
    assert [await lives(bus, each) for each in (here, admin)] == [False, True]
    await log_in(bus, ADA)


async def test_an_account_of_the_first_admins_address_is_taken_over(ctx: Context, bus: Bus) -> None:
    session = await log_in(bus)
    key = await bus.ask(CreateKey(name="of whoever had it before"))
    secret = (await bus.ask(OfferTotp(password=PASSWORD))).secret
    await bus.ask(ActivateTotp(code=pyotp.TOTP(secret).now()))
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("update memberships set role = 'user'")
        await tx.execute("update users set password_hash = 'of somebody else', disabled_at = now()")
    await identities.create_first_admin(ctx)
    assert not await lives(bus, session), "whoever was logged in as it"
    with pytest.raises(Unauthenticated):
        await bus.ask(VerifyKey(digest=digest_of(key.key)))
    assert (await log_in(bus)).user.role == "admin", "without a code"


async def test_where_there_is_no_admin_users_are_managed_all_the_same(ctx: Context, bus: Bus) -> None:
    await a_role(ctx.db, "acme", "people", ["self:read", "self:manage", "model:read", "inference:run", "user:manage"])
    people = await a_person(ctx.db, "acme", "people")
    ada = await a_person(ctx.db, "acme", "user")
    people.acts()
    assert (await bus.ask(UpdateUser(user_id=str(ada.id), name=" Ada "))).name == "Ada"
    await bus.ask(RemoveUser(user_id=str(ada.id)))
