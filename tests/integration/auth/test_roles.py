"""Roles of an organization's own: made of what their maker has, effective at once, kept while somebody has them."""

from typing import Any

import pytest

from libs.common.bus.base import Bus
from libs.common.contracts.auth.identity import IdentityChanged, VerifyKey
from libs.common.contracts.auth.invitations import CreateInvitation
from libs.common.contracts.auth.keys import CreateKey
from libs.common.contracts.auth.members import UpdateMember
from libs.common.contracts.auth.roles import CreateRole, DeleteRole, GetRole, ListRoles, Role, UpdateRole
from libs.common.contracts.message import Message, Query
from libs.common.contracts.paging import PageRequest
from libs.common.contracts.permissions import INSTALLATION, ROLES, Permission
from libs.common.database import EVERY_ORGANIZATION
from libs.common.errors import Conflict, Forbidden, InvalidRequest, NotFound, PreconditionFailed
from services.auth.context import Context
from services.auth.keys import digest_of
from services.auth.store.users import User
from tests.fixtures.buses import eventually
from tests.integration.auth.people import Person, a_person, a_role

READS = frozenset({Permission.MODEL_READ})
RUNS = frozenset({Permission.MODEL_READ, Permission.INFERENCE_RUN})


@pytest.fixture
async def boss(ctx: Context) -> Person:
    return await a_person(ctx.db, "acme", "admin", "boss")


async def a_support(bus: Bus, boss: Person, **changes: Any) -> Role:
    boss.acts()
    return await bus.ask(
        CreateRole(organization_id="acme", **{"name": "support", "permissions": RUNS, "models": ("llama*",), **changes})
    )


async def test_the_four_are_always_there_and_always_the_same(bus: Bus, boss: Person) -> None:
    boss.acts()
    roles = (await bus.ask(ListRoles(organization_id="acme"))).items
    assert {role.name: role.permissions for role in roles} == {
        name: granted - INSTALLATION for name, granted in ROLES.items()
    }, "what is the installation's counts in its own organization only"
    for role in roles:
        assert role.built_in
        assert role.description
        change = UpdateRole(organization_id="acme", name=role.name, permissions=READS)
        with pytest.raises(Conflict, match="always the same"):
            await bus.ask(change)
        with pytest.raises(Conflict, match="always the same"):
            await bus.ask(DeleteRole(organization_id="acme", name=role.name))
        with pytest.raises(Conflict, match="already"):
            await a_support(bus, boss, name=role.name)


async def test_own_roles_are_listed_by_name(bus: Bus, boss: Person) -> None:
    made = await a_support(bus, boss)
    assert (made.permissions, made.models, made.built_in, made.version) == (RUNS, ("llama*",), False, 1)
    first = await bus.ask(ListRoles(organization_id="acme", paging=PageRequest(limit=3)))
    rest = await bus.ask(ListRoles(organization_id="acme", paging=PageRequest(limit=3, cursor=first.next_cursor or "")))
    assert [role.name for role in first.items] == ["admin", "operator", "readonly"]
    assert ([role.name for role in rest.items], rest.next_cursor) == (["support", "user"], None)
    assert await bus.ask(GetRole(organization_id="acme", name="support")) == made


async def test_a_change_is_effective_at_once(ctx: Context, bus: Bus, boss: Person, left: list[Message]) -> None:
    await a_support(bus, boss)
    ada = await a_person(ctx.db, "acme", "support", "ada")
    ada.acts()
    digest = digest_of((await bus.ask(CreateKey(name="k"))).key)
    boss.acts()
    assert (await bus.ask(VerifyKey(digest=digest))).models == (("llama*",),)
    change = UpdateRole(organization_id="acme", name="support", permissions=READS, expected_version=1)
    assert (await bus.ask(change)).version == 2
    await eventually(lambda: IdentityChanged(organization_id="acme") in left)
    identity = await bus.ask(VerifyKey(digest=digest))
    assert (identity.permissions, identity.models) == (READS, ())
    with pytest.raises(PreconditionFailed):
        await bus.ask(change)


async def test_nobody_makes_a_role_that_may_more_than_they(ctx: Context, bus: Bus) -> None:
    await a_role(ctx.db, "acme", "lead", ["organization:manage", "model:read"], ["llama*"])
    await a_role(ctx.db, "acme", "above", ["organization:manage", "model:manage"])
    lead = await a_person(ctx.db, "acme", "lead")
    for more in (
        {"permissions": RUNS},
        {"permissions": READS, "models": ("qwen*",)},
        {"permissions": READS, "models": ()},
    ):
        with pytest.raises(Forbidden):
            await a_support(bus, lead, **more)
    queries: tuple[Query[Any], ...] = (
        UpdateRole(organization_id="acme", name="above", permissions=READS, models=("llama3",)),
        UpdateRole(organization_id="acme", name="lead", permissions=RUNS, models=("llama3",)),
        DeleteRole(organization_id="acme", name="above"),
    )
    for query in queries:
        with pytest.raises(Forbidden):
            await bus.ask(query)
    assert (await a_support(bus, lead, permissions=READS, models=("llama3*",))).models == ("llama3*",)


@pytest.mark.parametrize("permission", sorted(INSTALLATION))
async def test_what_is_the_installations_is_given_in_its_organization_only(
    bus: Bus, boss: Person, admin: User, permission: Permission
) -> None:
    with pytest.raises(InvalidRequest, match=permission):
        await a_support(bus, boss, permissions=frozenset({permission}))
    Person(admin.id, "default", admin.email).acts()
    wish = CreateRole(organization_id="default", name="support", permissions=frozenset({permission}))
    assert (await bus.ask(wish)).permissions == {permission}
    with pytest.raises(InvalidRequest, match=permission):
        await bus.ask(wish.model_copy(update={"organization_id": "acme"}))


async def test_a_role_that_somebody_has_stays(ctx: Context, bus: Bus, boss: Person) -> None:
    await a_support(bus, boss)
    ada = await a_person(ctx.db, "acme", "support", "ada")
    delete = DeleteRole(organization_id="acme", name="support")
    boss.acts()
    with pytest.raises(Conflict, match="members or open invitations"):
        await bus.ask(delete)
    await bus.ask(UpdateMember(organization_id="acme", user_id=str(ada.id), role="user"))
    await bus.ask(CreateInvitation(organization_id="acme", email="a@b.example", role="support"))
    with pytest.raises(Conflict, match="members or open invitations"):
        await bus.ask(delete)
    async with ctx.db.transaction("acme") as tx:
        await tx.execute("delete from invitations")
    await bus.ask(delete)
    with pytest.raises(NotFound, match="role not found"):
        await bus.ask(delete)


async def test_a_role_that_is_gone_allows_nothing(ctx: Context, bus: Bus) -> None:
    """Nobody gets there by our doors; whoever does by SQL has no rights left."""
    ada = await a_person(ctx.db, "acme", "user", "ada")
    ada.acts()
    digest = digest_of((await bus.ask(CreateKey(name="k"))).key)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("update memberships set role = 'captain' where user_id = %s", [ada.id])
    assert (await bus.ask(VerifyKey(digest=digest))).permissions == frozenset()


async def test_a_permission_of_a_newer_version_is_left_out(ctx: Context, bus: Bus, boss: Person) -> None:
    await a_role(ctx.db, "acme", "new", ["model:read", "model:paint"])
    boss.acts()
    assert (await bus.ask(GetRole(organization_id="acme", name="new"))).permissions == READS


async def test_roles_of_others_do_not_exist(ctx: Context, bus: Bus, boss: Person) -> None:
    await a_support(bus, boss)
    (await a_person(ctx.db, "globex", "admin")).acts()
    queries: tuple[Query[Any], ...] = (
        ListRoles(organization_id="acme"),
        GetRole(organization_id="acme", name="support"),
        CreateRole(organization_id="acme", name="mine", permissions=READS),
        UpdateRole(organization_id="acme", name="support", permissions=READS),
        DeleteRole(organization_id="acme", name="support"),
        GetRole(organization_id="globex", name="support"),
        DeleteRole(organization_id="globex", name="support"),
    )
    for query in queries:
        with pytest.raises(NotFound):
            await bus.ask(query)
