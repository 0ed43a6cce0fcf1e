"""Members: nobody gives or takes more than they have, and an organization keeps an admin."""

import asyncio
from typing import Any

import pytest

from libs.common.bus.base import Bus
from libs.common.contracts.auth.identity import IdentityChanged, VerifyKey
from libs.common.contracts.auth.keys import CreateKey
from libs.common.contracts.auth.members import AddMember, GetMember, ListMembers, RemoveMember, UpdateMember
from libs.common.contracts.message import Message, Query
from libs.common.contracts.paging import PageRequest
from libs.common.database import EVERY_ORGANIZATION
from libs.common.errors import Conflict, Forbidden, InvalidRequest, NotFound, PreconditionFailed, Unauthenticated
from services.auth.context import Context
from services.auth.keys import digest_of
from services.auth.store.users import User
from tests.fixtures.buses import eventually
from tests.integration.auth.people import Person, a_person, a_role, joins


@pytest.fixture
def operator(admin: User) -> Person:
    return Person(admin.id, "default", admin.email)


@pytest.fixture
async def boss(ctx: Context) -> Person:
    return await a_person(ctx.db, "acme", "admin", "boss")


@pytest.fixture
async def ada(ctx: Context) -> Person:
    return await a_person(ctx.db, "acme", "user", "ada")


async def role_of(bus: Bus, person: Person) -> str:
    return (await bus.ask(GetMember(organization_id=person.organization_id, user_id=str(person.id)))).role


async def test_members_in_pages_and_by_role(bus: Bus, boss: Person, ada: Person) -> None:
    boss.acts()
    first = await bus.ask(ListMembers(organization_id="acme", paging=PageRequest(limit=1)))
    rest = await bus.ask(
        ListMembers(organization_id="acme", paging=PageRequest(limit=1, cursor=first.next_cursor or ""))
    )
    assert ([each.email for each in (*first.items, *rest.items)], rest.next_cursor) == ([ada.email, boss.email], None)
    users = await bus.ask(ListMembers(organization_id="acme", role="user"))
    assert [(each.user_id, each.role, each.disabled) for each in users.items] == [(str(ada.id), "user", False)]


async def test_a_role_changes_at_once(bus: Bus, boss: Person, ada: Person, left: list[Message]) -> None:
    ada.acts()
    digest = digest_of((await bus.ask(CreateKey(name="k"))).key)
    boss.acts()
    change = UpdateMember(organization_id="acme", user_id=str(ada.id), role="readonly", expected_version=1)
    assert (await bus.ask(change)).version == 2
    await eventually(lambda: IdentityChanged(user_id=str(ada.id)) in left)
    assert (await bus.ask(VerifyKey(digest=digest))).role == "readonly"
    with pytest.raises(PreconditionFailed):
        await bus.ask(change)
    with pytest.raises(InvalidRequest, match="there is no role 'captain'"):
        await bus.ask(UpdateMember(organization_id="acme", user_id=str(ada.id), role="captain"))


async def test_nobody_gives_or_takes_a_role_that_may_more(ctx: Context, bus: Bus, boss: Person, ada: Person) -> None:
    await a_role(ctx.db, "acme", "desk", ["self:read", "self:manage", "model:read", "user:read", "user:manage"])
    desk = await a_person(ctx.db, "acme", "desk")
    desk.acts()
    queries: tuple[Query[Any], ...] = (
        UpdateMember(organization_id="acme", user_id=str(desk.id), role="admin"),
        UpdateMember(organization_id="acme", user_id=str(boss.id), role="desk"),
        RemoveMember(organization_id="acme", user_id=str(boss.id)),
        RemoveMember(organization_id="acme", user_id=str(ada.id)),
    )
    for query in queries:
        with pytest.raises(Forbidden, match="you do not have"):
            await bus.ask(query)
    boss.acts()
    assert (await role_of(bus, boss), await role_of(bus, desk)) == ("admin", "desk")


async def test_nobody_gives_more_models_than_they_have(ctx: Context, bus: Bus, ada: Person) -> None:
    manager = ["self:read", "self:manage", "model:read", "inference:run", "user:read", "user:manage"]
    await a_role(ctx.db, "acme", "lead", manager, ["llama*"])
    (await a_person(ctx.db, "acme", "lead")).acts()
    with pytest.raises(Forbidden, match="more than the models"):
        await bus.ask(UpdateMember(organization_id="acme", user_id=str(ada.id), role="lead"))


async def test_the_last_admin_stays(ctx: Context, bus: Bus, boss: Person) -> None:
    boss.acts()
    demote = UpdateMember(organization_id="acme", user_id=str(boss.id), role="user")
    ways: tuple[Query[Any], ...] = (demote, RemoveMember(organization_id="acme", user_id=str(boss.id)))
    other = await a_person(ctx.db, "acme", "admin", "other")
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("update users set disabled_at = now() where id = %s", [other.id])
    for query in ways:
        with pytest.raises(Conflict, match="needs an admin"):
            await bus.ask(query)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("update users set disabled_at = null where id = %s", [other.id])
    assert (await bus.ask(demote)).role == "user"


async def test_two_admins_cannot_remove_each_other(ctx: Context, bus: Bus, boss: Person) -> None:
    other = await a_person(ctx.db, "acme", "admin", "other")

    async def removes(who: Person, whom: Person) -> None:
        who.acts()
        await bus.ask(RemoveMember(organization_id="acme", user_id=str(whom.id)))

    answers = await asyncio.gather(removes(boss, other), removes(other, boss), return_exceptions=True)
    assert [type(answer) for answer in answers].count(type(None)) == 1
    async with ctx.db.transaction("acme") as tx:
        rows = await tx.execute("select role from memberships")
        assert await rows.fetchall() == [("admin",)]


async def test_who_is_removed_is_gone_with_keys_and_sessions(
    ctx: Context, bus: Bus, boss: Person, ada: Person, left: list[Message]
) -> None:
    await joins(ctx.db, ada.elsewhere("globex"), "user")
    ada.acts()
    digest = digest_of((await bus.ask(CreateKey(name="k"))).key)
    boss.acts()
    await bus.ask(RemoveMember(organization_id="acme", user_id=str(ada.id), expected_version=1))
    await eventually(lambda: IdentityChanged(user_id=str(ada.id)) in left)
    with pytest.raises(NotFound, match="member not found"):
        await role_of(bus, ada)
    await joins(ctx.db, ada, "admin")
    with pytest.raises(Unauthenticated):
        await bus.ask(VerifyKey(digest=digest))
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        rows = await tx.execute("select organization_id from users where id = %s", [ada.id])
        assert await rows.fetchall() == [("globex",)], "the next login leads to where they still belong"


async def test_only_operators_add_who_was_not_asked(ctx: Context, bus: Bus, operator: Person, boss: Person) -> None:
    stranger = await a_person(ctx.db, "globex", "user")
    add = AddMember(organization_id="acme", email=stranger.email.upper(), role="readonly")
    boss.acts()
    for email in (stranger.email, "nobody@nowhere.example"):
        with pytest.raises(Forbidden, match="invite"):
            await bus.ask(add.model_copy(update={"email": email}))
    operator.acts()
    assert (await bus.ask(add)).role == "readonly"
    with pytest.raises(Conflict, match="member already"):
        await bus.ask(add)
    with pytest.raises(NotFound, match="user not found"):
        await bus.ask(AddMember(organization_id="acme", email="nobody@nowhere.example", role="user"))
    with pytest.raises(InvalidRequest, match="there is no role"):
        await bus.ask(AddMember(organization_id="acme", email=boss.email, role="captain"))


async def test_members_of_others_do_not_exist(ctx: Context, bus: Bus, ada: Person) -> None:
    await a_person(ctx.db, "globex", "admin")
    other = await a_person(ctx.db, "globex", "admin", "other")
    queries: tuple[Query[Any], ...] = (
        ListMembers(organization_id="acme"),
        GetMember(organization_id="acme", user_id=str(ada.id)),
        AddMember(organization_id="acme", email=other.email, role="admin"),
        UpdateMember(organization_id="acme", user_id=str(ada.id), role="admin"),
        RemoveMember(organization_id="acme", user_id=str(ada.id)),
    )
    other.acts()
    for query in queries:
        with pytest.raises(NotFound, match="organization not found"):
            await bus.ask(query)
    with pytest.raises(NotFound, match="member not found"):
        await bus.ask(RemoveMember(organization_id="globex", user_id=str(ada.id)))


async def test_no_key_outlives_a_removal_at_the_same_time(ctx: Context, bus: Bus, boss: Person) -> None:
    async def removes(person: Person) -> None:
        boss.acts()
        await bus.ask(RemoveMember(organization_id="acme", user_id=str(person.id)))

    async def makes(person: Person, number: int) -> None:
        person.acts()
        await bus.ask(CreateKey(name=f"k{number}"))

    for attempt in range(4):
        person = await a_person(ctx.db, "acme", "user", f"ada{attempt}")
        await joins(ctx.db, person.elsewhere("globex"), "user")
        making = [makes(person, number) for number in range(3)]
        await asyncio.gather(*making, removes(person), return_exceptions=True)
        async with ctx.db.transaction("acme") as tx:
            rows = await tx.execute("select from api_keys where user_id = %s and revoked_at is null", [person.id])
            assert await rows.fetchall() == [], "it would work again with the next membership"
