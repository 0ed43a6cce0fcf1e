"""Rights that are taken away while they are used. On a real database, where the second waits for the first."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from libs.common.bus.base import Bus
from libs.common.contracts.auth.invitations import CreateInvitation
from libs.common.contracts.auth.members import UpdateMember
from libs.common.contracts.auth.organizations import UpdateOrganization
from libs.common.contracts.auth.privacy import EraseOwn
from libs.common.contracts.auth.second_factor import PutSecondFactorPolicy
from libs.common.contracts.auth.sessions import Refresh
from libs.common.contracts.auth.users import UpdateUser
from libs.common.contracts.message import Query
from libs.common.database import EVERY_ORGANIZATION
from libs.common.errors import Forbidden, Unauthenticated
from services.auth.context import Context
from services.auth.store import members as member_store
from services.auth.store import organizations as organization_store
from services.auth.store import sessions as session_store
from services.auth.store import users as user_store
from tests.fixtures.database import somebody_waits
from tests.integration.auth.conftest import PASSWORD
from tests.integration.auth.logins import a_user, log_in
from tests.integration.auth.people import Person, a_person, joins


@pytest.mark.parametrize("fate", ["demoted", "removed"])
async def test_who_is_demoted_invites_nobody_at_the_same_time(ctx: Context, bus: Bus, fate: str) -> None:
    """All invitations of theirs were withdrawn; one that waited for that would be a way back."""
    await a_person(ctx.db, "acme", "admin", "boss")
    other = await a_person(ctx.db, "acme", "admin", "other")
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await organization_store.lock_organization(tx, "acme")
        other.acts()
        asked = CreateInvitation(organization_id="acme", email="friend@b.example", role="user")
        inviting = asyncio.create_task(bus.ask(asked))
        await somebody_waits(tx)
        if fate == "demoted":
            await member_store.set_role(tx, "acme", other.id, "user")
        else:
            await member_store.delete_member(tx, "acme", other.id)
    with pytest.raises((Forbidden, Unauthenticated)):
        await inviting
    async with ctx.db.transaction("acme") as tx:
        assert await (await tx.execute("select from invitations")).fetchall() == []


@pytest.mark.parametrize("query", [UpdateMember, UpdateUser])
async def test_who_is_demoted_does_not_undo_it_at_the_same_time(
    ctx: Context, bus: Bus, query: type[UpdateMember | UpdateUser]
) -> None:
    await a_person(ctx.db, "acme", "admin", "boss")
    other = await a_person(ctx.db, "acme", "admin", "other")
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await organization_store.lock_organization(tx, "acme")
        other.acts()
        asked = {"organization_id": "acme", "user_id": str(other.id), "role": "admin"}
        undoing = asyncio.create_task(bus.ask(query.model_validate(asked)))
        await somebody_waits(tx)
        await member_store.set_role(tx, "acme", other.id, "user")
    with pytest.raises(Forbidden):
        await undoing
    async with ctx.db.transaction("acme") as tx:
        member = await member_store.member_of_id(tx, "acme", other.id)
    assert member is not None
    assert member.role == "user"


@pytest.mark.parametrize(
    "query",
    [
        PutSecondFactorPolicy(organization_id="acme", roles=("admin",)),
        UpdateOrganization(organization_id="acme", name="Mine", store_prompts=True),
    ],
    ids=lambda query: type(query).__name__,
)
async def test_who_is_demoted_changes_no_settings_at_the_same_time(ctx: Context, bus: Bus, query: Query[Any]) -> None:
    other = await a_person(ctx.db, "acme", "admin", "other")
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await organization_store.lock_organization(tx, "acme")
        other.acts()
        changing = asyncio.create_task(bus.ask(query))
        await somebody_waits(tx)
        await member_store.set_role(tx, "acme", other.id, "user")
    with pytest.raises(Forbidden):
        await changing


async def test_who_erases_their_account_and_who_changes_it_do_not_wait_for_each_other(ctx: Context, bus: Bus) -> None:
    await log_in(bus)
    ada = await a_user(bus, "ada@b.example")
    await log_in(bus, "ada@b.example")
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await organization_store.lock_organization(tx, "default")
        erasing = asyncio.create_task(bus.ask(EraseOwn(password=PASSWORD)))
        await somebody_waits(tx)
        await user_store.lock_user(tx, UUID(ada))
    await erasing


async def test_who_is_removed_does_not_log_in_at_the_same_time(ctx: Context, bus: Bus) -> None:
    await log_in(bus)
    ada = await a_user(bus, "ada@b.example")
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("delete from memberships where user_id = %s", [ada])
        login = asyncio.create_task(log_in(bus, "ada@b.example"))
        await somebody_waits(tx)
    with pytest.raises(Unauthenticated):
        await login
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        rows = await tx.execute("select from user_sessions where user_id = %s", [ada])
        assert await rows.fetchall() == [], "it would be good again with the next membership"


async def test_who_goes_on_elsewhere_while_all_sessions_end_is_out_too(ctx: Context, bus: Bus) -> None:
    session = await log_in(bus)
    user_id = UUID(session.user.id)
    await joins(ctx.db, Person(user_id, "acme", session.user.email), "user")
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await user_store.lock_out(tx, user_id)
        moving = asyncio.create_task(bus.ask(Refresh(refresh_token=session.refresh_token, organization_id="acme")))
        await somebody_waits(tx)
        await session_store.end_sessions(tx, user_id)
    with pytest.raises(Unauthenticated):
        await moving
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        assert await (await tx.execute("select from user_sessions where ended_at is null")).fetchall() == []
