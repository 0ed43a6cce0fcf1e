"""Organizations: who sees which, who may make and change them, and what remains of a deleted one."""

from typing import Any

import pytest

from libs.common.bus.base import Bus
from libs.common.contracts.auth.identity import IdentityChanged, VerifyKey
from libs.common.contracts.auth.keys import CreateKey
from libs.common.contracts.auth.members import GetMember
from libs.common.contracts.auth.organizations import (
    CreateOrganization,
    DeleteOrganization,
    GetOrganization,
    ListOrganizations,
    UpdateOrganization,
)
from libs.common.contracts.message import Message, Query
from libs.common.contracts.paging import PageRequest
from libs.common.database import EVERY_ORGANIZATION
from libs.common.errors import Conflict, Forbidden, InvalidRequest, NotFound, PreconditionFailed, Unauthenticated
from services.auth.context import Context
from services.auth.keys import digest_of
from services.auth.store.users import User
from tests.fixtures.buses import eventually
from tests.integration.auth.people import Person, a_person, joins


@pytest.fixture
def operator(admin: User) -> Person:
    """Manages tenants: the first admin of the organization that runs the installation."""
    return Person(admin.id, "default", admin.email)


@pytest.fixture
async def boss(ctx: Context) -> Person:
    return await a_person(ctx.db, "acme", "admin", "boss")


async def seen(bus: Bus, **page: Any) -> list[str]:
    return [each.id for each in (await bus.ask(ListOrganizations(paging=PageRequest(**page)))).items]


async def test_the_creator_becomes_the_admin(bus: Bus, operator: Person) -> None:
    operator.acts()
    made = await bus.ask(CreateOrganization(id="acme", name=" Acme ", description="rockets"))
    assert (made.id, made.name, made.description, made.store_prompts) == ("acme", "Acme", "rockets", False)
    assert (await bus.ask(GetMember(organization_id="acme", user_id=str(operator.id)))).role == "admin"
    named = await bus.ask(CreateOrganization(name="Globex"))
    assert await bus.ask(GetOrganization(organization_id=named.id)) == named
    with pytest.raises(Conflict):
        await bus.ask(CreateOrganization(id="acme", name="Other"))


async def test_everybody_sees_their_own_and_operators_all(ctx: Context, bus: Bus, operator: Person) -> None:
    boss = await a_person(ctx.db, "acme", "admin", "boss")
    await joins(ctx.db, boss.elsewhere("globex"), "user")
    await a_person(ctx.db, "initech", "user")
    boss.acts()
    assert await seen(bus) == ["globex", "acme"]
    key = await bus.ask(CreateKey(name="k"))
    boss.acts(key_id=key.id)
    assert await seen(bus) == ["acme"], "a key works in one organization, and tells of no other"
    with pytest.raises(NotFound):
        await bus.ask(GetOrganization(organization_id="globex"))
    operator.acts()
    assert await seen(bus) == ["initech", "globex", "acme", "default"]


async def test_pages(ctx: Context, bus: Bus, operator: Person) -> None:
    for name in ("a", "b", "c"):
        await a_person(ctx.db, name, "user")
    operator.acts()
    first = await bus.ask(ListOrganizations(paging=PageRequest(limit=3)))
    assert first.next_cursor is not None
    assert await seen(bus, cursor=first.next_cursor, limit=3) == ["default"]
    with pytest.raises(InvalidRequest, match="cursor"):
        await seen(bus, cursor="WzEuMCwiXHUwMDAwIl0=")


async def test_what_one_does_not_belong_to_is_not_there(ctx: Context, bus: Bus, boss: Person) -> None:
    await a_person(ctx.db, "globex", "user")
    boss.acts()
    assert (await bus.ask(GetOrganization(organization_id="acme"))).name == "Acme"
    for hidden in ("globex", "default", "nowhere", "*", ""):
        queries: tuple[Query[Any], ...] = (
            GetOrganization(organization_id=hidden),
            UpdateOrganization(organization_id=hidden, name="Mine"),
            DeleteOrganization(organization_id=hidden),
        )
        for query in queries:
            with pytest.raises(NotFound, match="organization not found"):
                await bus.ask(query)


async def test_what_is_nowhere_is_not_there_for_operators_either(bus: Bus, operator: Person) -> None:
    operator.acts()
    for nowhere in ("nowhere", "*", ""):
        for query in (GetOrganization(organization_id=nowhere), UpdateOrganization(organization_id=nowhere, name="x")):
            with pytest.raises(NotFound, match="organization not found"):
                await bus.ask(query)


async def test_a_change_needs_the_version_it_was_made_for(bus: Bus, boss: Person, left: list[Message]) -> None:
    boss.acts()
    change = UpdateOrganization(organization_id="acme", name="ACME", store_prompts=True, expected_version=1)
    changed = await bus.ask(change)
    assert (changed.name, changed.store_prompts, changed.version) == ("ACME", True, 2)
    await eventually(lambda: IdentityChanged(organization_id="acme") in left)
    with pytest.raises(PreconditionFailed):
        await bus.ask(change)


async def test_a_name_tells_nothing_of_who_else_is_here(bus: Bus, boss: Person) -> None:
    boss.acts()
    assert (await bus.ask(UpdateOrganization(organization_id="acme", name="default"))).name == "default"


async def test_callers_carry_whether_prompts_are_stored(bus: Bus, boss: Person) -> None:
    boss.acts()
    digest = digest_of((await bus.ask(CreateKey(name="k"))).key)
    assert not (await bus.ask(VerifyKey(digest=digest))).stores_prompts
    await bus.ask(UpdateOrganization(organization_id="acme", name="Acme", store_prompts=True))
    assert (await bus.ask(VerifyKey(digest=digest))).stores_prompts


async def test_who_manages_tenants_weighs_them(bus: Bus, boss: Person, operator: Person, left: list[Message]) -> None:
    boss.acts()
    digest = digest_of((await bus.ask(CreateKey(name="k"))).key)
    heavier = UpdateOrganization(organization_id="acme", name="Acme", weight=2.5)
    with pytest.raises(Forbidden, match="tenant:manage"):
        await bus.ask(heavier)
    operator.acts()
    assert (await bus.ask(heavier)).weight == 2.5
    await eventually(lambda: IdentityChanged(organization_id="acme") in left)
    assert (await bus.ask(VerifyKey(digest=digest))).organization_weight == 2.5
    boss.acts()
    for same in (None, 2.5):
        changed = await bus.ask(UpdateOrganization(organization_id="acme", name="Acme", weight=same))
        assert changed.weight == 2.5


async def test_a_deleted_organization_has_nobody(ctx: Context, bus: Bus, operator: Person, left: list[Message]) -> None:
    boss = await a_person(ctx.db, "acme", "admin", "boss")
    await joins(ctx.db, boss.elsewhere("globex"), "user")
    gone = await a_person(ctx.db, "acme", "user")
    boss.acts()
    key = await bus.ask(CreateKey(name="k"))
    operator.acts()
    await bus.ask(DeleteOrganization(organization_id="acme"))
    await eventually(lambda: IdentityChanged(organization_id="acme") in left)
    with pytest.raises(Unauthenticated):
        await bus.ask(VerifyKey(digest=digest_of(key.key)))
    with pytest.raises(NotFound):
        await bus.ask(GetOrganization(organization_id="acme"))
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        rows = await tx.execute("select id, organization_id from users where id in (%s, %s)", [boss.id, gone.id])
        assert await rows.fetchall() == [(boss.id, "globex")], "an account that belongs to nothing is deleted"


async def test_an_id_is_never_given_again(bus: Bus, operator: Person) -> None:
    operator.acts()
    await bus.ask(CreateOrganization(id="acme", name="Acme"))
    await bus.ask(DeleteOrganization(organization_id="acme", expected_version=1))
    with pytest.raises(Conflict):
        await bus.ask(CreateOrganization(id="acme", name="Other"))


async def test_the_operating_organization_stays(bus: Bus, operator: Person) -> None:
    operator.acts()
    with pytest.raises(Conflict, match="runs the installation"):
        await bus.ask(DeleteOrganization(organization_id="default"))


@pytest.mark.parametrize("name", ["", "  ", "line\nbreak", "zero\0byte", "x" * 101])
async def test_bad_names(bus: Bus, operator: Person, name: str) -> None:
    operator.acts()
    with pytest.raises(InvalidRequest, match="name"):
        await bus.ask(CreateOrganization(name=name))
