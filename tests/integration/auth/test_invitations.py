"""Invitations: a token for one address, once."""

import asyncio
from typing import Any

import pytest

from libs.common.bus.base import Bus
from libs.common.contracts.auth.invitations import (
    AcceptInvitation,
    CreatedInvitation,
    CreateInvitation,
    Joined,
    ListInvitations,
    WithdrawInvitation,
)
from libs.common.contracts.auth.keys import CreateKey
from libs.common.contracts.auth.members import GetMember, RemoveMember, UpdateMember
from libs.common.contracts.auth.privacy import EraseUser
from libs.common.contracts.auth.users import UpdateUser
from libs.common.contracts.message import Query
from libs.common.contracts.paging import PageRequest
from libs.common.database import EVERY_ORGANIZATION
from libs.common.errors import Conflict, Forbidden, InvalidRequest, NotFound
from services.auth import invitations
from services.auth.context import Context
from services.auth.store.users import User
from tests.integration.auth.people import Person, a_person, a_role, joins

EMAIL = "ada@globex.example"


@pytest.fixture
async def boss(ctx: Context) -> Person:
    return await a_person(ctx.db, "acme", "admin", "boss")


@pytest.fixture
async def ada(ctx: Context) -> Person:
    """Has an account elsewhere."""
    return await a_person(ctx.db, "globex", "user", "ada")


async def invite(bus: Bus, boss: Person, email: str = EMAIL, role: str = "user") -> CreatedInvitation:
    boss.acts()
    return await bus.ask(CreateInvitation(organization_id=boss.organization_id, email=email, role=role))


async def accept(bus: Bus, person: Person, invitation: CreatedInvitation) -> Joined:
    person.acts()
    return await bus.ask(AcceptInvitation(token=invitation.token))


async def listed(bus: Bus, boss: Person) -> list[str]:
    boss.acts()
    return [each.email for each in (await bus.ask(ListInvitations(organization_id=boss.organization_id))).items]


async def test_who_is_invited_joins_once(bus: Bus, boss: Person, ada: Person) -> None:
    invitation = await invite(bus, boss, " Ada@Globex.example ")
    assert (invitation.email, invitation.role, invitation.invited_by) == (EMAIL, "user", str(boss.id))
    assert invitation.expires_at - invitation.created_at == pytest.approx(7 * 86_400)
    joined = await accept(bus, ada, invitation)
    assert (joined.organization.id, joined.member.user_id, joined.member.role) == ("acme", str(ada.id), "user")
    with pytest.raises(NotFound, match="invitation not found"):
        await accept(bus, ada, invitation)
    assert await listed(bus, boss) == []
    assert (await bus.ask(GetMember(organization_id="acme", user_id=str(ada.id)))).email == EMAIL


async def test_it_is_for_one_address(ctx: Context, bus: Bus, boss: Person, ada: Person) -> None:
    invitation = await invite(bus, boss)
    eve = await a_person(ctx.db, "globex", "admin", "eve")
    with pytest.raises(NotFound):
        await accept(bus, eve, invitation)
    assert (await accept(bus, ada, invitation)).member.email == EMAIL, "the attempt used nothing up"


async def test_of_two_who_come_at_once_one_gets_it(ctx: Context, bus: Bus, boss: Person, ada: Person) -> None:
    token = (await invite(bus, boss)).token

    async def redeem() -> invitations.Redeemed:
        async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
            return await invitations.redeem(tx, token, ada.email)

    answers = await asyncio.gather(*(redeem() for _ in range(4)), return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in answers) == [*["NotFound"] * 3, "Redeemed"]


async def test_what_is_rolled_back_is_not_used_up(ctx: Context, bus: Bus, boss: Person, ada: Person) -> None:
    invitation = await invite(bus, boss)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        assert (await invitations.redeem(tx, invitation.token, "ADA@globex.example")).role == "user"
        await tx.rollback()
    await accept(bus, ada, invitation)


async def test_a_second_one_takes_the_place_of_the_first(bus: Bus, boss: Person, ada: Person) -> None:
    first, second = await invite(bus, boss), await invite(bus, boss, role="readonly")
    assert await listed(bus, boss) == [EMAIL]
    with pytest.raises(NotFound):
        await accept(bus, ada, first)
    assert (await accept(bus, ada, second)).member.role == "readonly"
    with pytest.raises(Conflict, match="member already"):
        await invite(bus, boss)


async def test_withdrawn_and_expired_ones_are_good_for_nothing(
    ctx: Context, bus: Bus, boss: Person, ada: Person
) -> None:
    withdrawn = await invite(bus, boss)
    withdraw = WithdrawInvitation(organization_id="acme", invitation_id=withdrawn.id)
    await bus.ask(withdraw)
    with pytest.raises(NotFound):
        await bus.ask(withdraw)
    with pytest.raises(NotFound):
        await accept(bus, ada, withdrawn)
    expired = await invite(bus, boss)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("update invitations set expires_at = now()")
    assert await listed(bus, boss) == []
    with pytest.raises(NotFound):
        await accept(bus, ada, expired)
    await invite(bus, boss, "another@globex.example")
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        rows = await tx.execute("select email from invitations")
        assert await rows.fetchall() == [("another@globex.example",)], "what has expired is cleared away"


async def test_pages(bus: Bus, boss: Person) -> None:
    for name in "abc":
        await invite(bus, boss, f"{name}@b.example")
    first = await bus.ask(ListInvitations(organization_id="acme", paging=PageRequest(limit=2)))
    rest = ListInvitations(organization_id="acme", paging=PageRequest(cursor=first.next_cursor or ""))
    assert [each.email[0] for each in (*first.items, *(await bus.ask(rest)).items)] == ["c", "b", "a"]


async def test_nobody_invites_to_more_than_they_may(ctx: Context, bus: Bus) -> None:
    await a_role(ctx.db, "acme", "desk", ["user:read", "user:manage"])
    desk = await a_person(ctx.db, "acme", "desk")
    for role in ("admin", "user"):
        with pytest.raises(Forbidden, match="you do not have"):
            await invite(bus, desk, role=role)
    await invite(bus, desk, role="desk")


async def test_nobody_withdraws_an_invitation_to_more_than_they_may(ctx: Context, bus: Bus, boss: Person) -> None:
    await a_role(ctx.db, "acme", "desk", ["user:read", "user:manage"])
    desk = await a_person(ctx.db, "acme", "desk")
    invitation = await invite(bus, boss, role="admin")
    desk.acts()
    with pytest.raises(Forbidden, match="you do not have"):
        await bus.ask(WithdrawInvitation(organization_id="acme", invitation_id=invitation.id))
    assert await listed(bus, boss) == [EMAIL]


async def test_what_cannot_be_invited(bus: Bus, boss: Person) -> None:
    for email in ("", "nobody", "a@b c", "a\0@b", "x" * 100 + "@b"):
        with pytest.raises(InvalidRequest, match="e-mail"):
            await invite(bus, boss, email)
    with pytest.raises(InvalidRequest, match="there is no role"):
        await invite(bus, boss, role="captain")


@pytest.mark.parametrize("fate", ["removed", "demoted", "disabled", "erased"])
async def test_who_may_not_invite_any_more_has_no_open_invitations(
    ctx: Context, bus: Bus, boss: Person, ada: Person, fate: str
) -> None:
    """Else they could come back by one they sent to another address of theirs."""
    other = await a_person(ctx.db, "acme", "admin", "other")
    invitation = await invite(bus, other, role="admin")
    boss.acts()
    if fate == "removed":
        await bus.ask(RemoveMember(organization_id="acme", user_id=str(other.id)))
    elif fate == "demoted":
        await bus.ask(UpdateMember(organization_id="acme", user_id=str(other.id), role="user"))
    elif fate == "disabled":
        await bus.ask(UpdateUser(user_id=str(other.id), disabled=True))
    else:
        await bus.ask(EraseUser(user_id=str(other.id)))
    assert await listed(bus, boss) == []
    with pytest.raises(NotFound):
        await accept(bus, ada, invitation)


@pytest.mark.parametrize("fate", ["removed", "demoted", "disabled", "erased"])
async def test_who_may_not_reach_into_all_organizations_any_more_has_no_open_invitations_in_any(
    ctx: Context, bus: Bus, admin: User, boss: Person, fate: str
) -> None:
    eve = await a_person(ctx.db, "default", "admin", "eve")
    await joins(ctx.db, eve.elsewhere("globex"), "user")
    eve.acts()
    await bus.ask(CreateInvitation(organization_id="acme", email=EMAIL, role="admin"))
    Person(admin.id, "default", admin.email).acts()
    queries: dict[str, Query[Any]] = {
        "removed": RemoveMember(organization_id="default", user_id=str(eve.id)),
        "demoted": UpdateMember(organization_id="default", user_id=str(eve.id), role="user"),
        "disabled": UpdateUser(user_id=str(eve.id), disabled=True),
        "erased": EraseUser(user_id=str(eve.id)),
    }
    await bus.ask(queries[fate])
    assert await listed(bus, boss) == []


async def test_an_api_key_joins_nothing(bus: Bus, boss: Person, ada: Person) -> None:
    invitation = await invite(bus, boss)
    ada.acts()
    ada.acts(key_id=(await bus.ask(CreateKey(name="k"))).id)
    with pytest.raises(Forbidden, match="log in"):
        await bus.ask(AcceptInvitation(token=invitation.token))


async def test_invitations_of_others_do_not_exist(ctx: Context, bus: Bus, boss: Person) -> None:
    invitation = await invite(bus, boss)
    (await a_person(ctx.db, "globex", "admin")).acts()
    for organization in ("acme", "globex"):
        with pytest.raises(NotFound):
            await bus.ask(WithdrawInvitation(organization_id=organization, invitation_id=invitation.id))
    with pytest.raises(NotFound):
        await bus.ask(CreateInvitation(organization_id="acme", email=EMAIL, role="admin"))
    with pytest.raises(NotFound):
        await bus.ask(ListInvitations(organization_id="acme"))


async def test_a_token_is_stored_as_a_hash_and_never_shown_again(ctx: Context, bus: Bus, boss: Person) -> None:
    invitation = await invite(bus, boss)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        for table in ("select invitations::text from invitations", "select body::text from outbox"):
            assert invitation.token not in str(await (await tx.execute(table)).fetchall())
    assert invitation.token not in repr(invitation), "nor in a log"
