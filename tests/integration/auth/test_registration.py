"""Who may register, on a real database."""

import asyncio

import pytest

from libs.common.bus.base import Bus
from libs.common.contracts.auth.identity import VerifySession
from libs.common.contracts.auth.invitations import CreateInvitation, ListInvitations
from libs.common.contracts.auth.sessions import Register, Session
from libs.common.database import EVERY_ORGANIZATION
from libs.common.errors import Conflict, Forbidden, InvalidRequest, NotFound, RateLimited
from services.auth import lockout
from services.auth.context import Context
from services.auth.lockout import ACCOUNT, Allowance
from tests.integration.auth.conftest import EMAIL, PASSWORD
from tests.integration.auth.logins import a_user, log_in, session_id, stranger

ADA = "ada@b.example"


def let_in(ctx: Context, whom: str) -> None:
    """Changes the setting while auth runs."""
    ctx.config.current = ctx.settings.model_copy(update={"registration": whom})


async def register(bus: Bus, email: str = ADA, password: str = PASSWORD, invitation: str = "") -> Session:
    stranger()
    return await bus.ask(Register(email=email, password=password, name=" Ada ", invitation=invitation))


async def invited(bus: Bus, email: str = ADA, role: str = "operator") -> str:
    await log_in(bus)
    return (await bus.ask(CreateInvitation(organization_id="default", email=email, role=role))).token


async def test_an_invited_user_is_a_member_and_logged_in(bus: Bus) -> None:
    session = await register(bus, " ADA@b.example", invitation=await invited(bus))
    assert (session.user.email, session.user.name, session.user.role) == (ADA, "Ada", "operator")
    identity = await bus.ask(VerifySession(session_id=session_id(session)))
    assert (identity.organization_id, identity.user_id, identity.role) == ("default", session.user.id, "operator")
    assert (await log_in(bus, ADA)).user.id == session.user.id


async def test_an_invitation_is_good_once_and_for_its_address(bus: Bus) -> None:
    invitation = await invited(bus)
    with pytest.raises(NotFound, match="invitation"):
        await register(bus, "eve@b.example", invitation=invitation)
    answers = await asyncio.gather(*(register(bus, invitation=invitation) for _ in range(3)), return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in answers) == ["NotFound", "NotFound", "Session"]


async def test_without_an_invitation_nobody_registers(bus: Bus) -> None:
    for email in (ADA, EMAIL):
        with pytest.raises(Forbidden, match="needs an invitation"):
            await register(bus, email)
        with pytest.raises(NotFound, match="invitation"):
            await register(bus, email, invitation="omi_made_up")


async def test_closed_is_closed_also_to_who_was_invited(ctx: Context, bus: Bus) -> None:
    invitation = await invited(bus)
    let_in(ctx, "closed")
    with pytest.raises(Forbidden, match="closed"):
        await register(bus, invitation=invitation)


async def test_open_to_everybody(ctx: Context, bus: Bus) -> None:
    let_in(ctx, "open")
    session = await register(bus)
    assert (session.organization_id, session.user.role) == ("default", "user")
    with pytest.raises(Conflict, match="has an account"):
        await register(bus, EMAIL)
    invited_session = await register(bus, "eve@b.example", invitation=await invited(bus, "eve@b.example"))
    assert invited_session.user.role == "operator"


async def test_who_has_an_account_elsewhere_keeps_the_invitation(ctx: Context, bus: Bus) -> None:
    await log_in(bus)
    ada = await a_user(bus, ADA)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("insert into organizations (id, name) values ('acme', 'Acme')")
        await tx.execute("update memberships set organization_id = 'acme' where user_id = %s", [ada])
    invitation = await invited(bus)
    with pytest.raises(Conflict, match="accept the invitation"):
        await register(bus, invitation=invitation)
    await log_in(bus)
    assert [each.email for each in (await bus.ask(ListInvitations(organization_id="default"))).items] == [ADA]


@pytest.mark.parametrize(
    "password", ["", "short", "password1234", "aaaaaaaaaaaa", "ADA@b.example", "x1" * 129, " Password1234 "]
)
async def test_bad_passwords(ctx: Context, bus: Bus, password: str) -> None:
    let_in(ctx, "open")
    with pytest.raises(InvalidRequest, match="password"):
        await register(bus, password=password)


@pytest.mark.parametrize("email", ["", "ada", "a b@c", "a@b\0", "@b", "a@" + "b" * 200])
async def test_bad_addresses(ctx: Context, bus: Bus, email: str) -> None:
    let_in(ctx, "open")
    with pytest.raises(InvalidRequest, match="email"):
        await register(bus, email)


async def test_one_network_makes_only_so_many_accounts(ctx: Context, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    let_in(ctx, "open")
    monkeypatch.setattr(lockout, "NETWORK", Allowance(failures=2, longest_wait_seconds=60))
    for number in range(2):
        await register(bus, f"{number}@b.example")
    with pytest.raises(RateLimited):
        await register(bus)


async def test_guessing_invitations_takes_ever_longer(bus: Bus) -> None:
    for _ in range(ACCOUNT.failures):
        with pytest.raises(NotFound):
            await register(bus, invitation="omi_guessed")
    with pytest.raises(RateLimited):
        await register(bus, invitation="omi_guessed")
