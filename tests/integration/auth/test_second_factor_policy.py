"""The second factor at logins: asked for, guessed at, demanded of roles, reset by who manages members."""

import time
from uuid import uuid4

import pyotp
import pytest

from libs.common import actor
from libs.common.bus.base import Bus
from libs.common.contracts.auth.identity import IdentityChanged, VerifyKey, VerifySession
from libs.common.contracts.auth.keys import CreateKey
from libs.common.contracts.auth.second_factor import (
    ActivateTotp,
    GetSecondFactor,
    GetSecondFactorPolicy,
    OfferTotp,
    PutSecondFactorPolicy,
    ResetTotp,
)
from libs.common.contracts.auth.sessions import Login, Session
from libs.common.contracts.message import Message
from libs.common.contracts.permissions import Permission
from libs.common.database import EVERY_ORGANIZATION
from libs.common.errors import (
    Forbidden,
    InvalidRequest,
    NotFound,
    PreconditionFailed,
    RateLimited,
    SecondFactorRequired,
    Unauthenticated,
    WrongCode,
)
from services.auth.context import Context
from services.auth.keys import digest_of
from services.auth.lockout import ACCOUNT
from services.auth.second_factor import PERIOD_SECONDS, UNTIL_SET_UP
from tests.fixtures.buses import eventually
from tests.integration.auth.conftest import PASSWORD
from tests.integration.auth.logins import a_user, log_in, session_id
from tests.integration.auth.people import Person, a_person, a_role, joins

ADA = "ada@b.example"


async def ada(bus: Bus, role: str = "user") -> str:
    await log_in(bus)
    return await a_user(bus, ADA, role=role)


async def set_up(bus: Bus) -> tuple[str, tuple[str, ...]]:
    """For whoever is logged in: the secret, and the recovery codes."""
    secret = (await bus.ask(OfferTotp(password=PASSWORD))).secret
    return secret, (await bus.ask(ActivateTotp(code=pyotp.TOTP(secret).now()))).codes


async def permissions(bus: Bus, session: Session) -> frozenset[str]:
    return (await bus.ask(VerifySession(session_id=session_id(session)))).permissions


async def demand_of(bus: Bus, *roles: str, organization: str = "default", expected: int | None = None) -> int:
    query = PutSecondFactorPolicy(organization_id=organization, roles=roles, expected_version=expected)
    return (await bus.ask(query)).version


async def test_a_login_asks_for_a_code(bus: Bus) -> None:
    await ada(bus)
    await log_in(bus, ADA)
    secret, recovery = await set_up(bus)
    with pytest.raises(SecondFactorRequired):
        await log_in(bus, ADA)
    with pytest.raises(WrongCode):
        await log_in(bus, ADA, code="abcdef")
    with pytest.raises(Unauthenticated, match="wrong email or password"):
        await log_in(bus, ADA, "a wrong password", code=recovery[0])
    code = pyotp.TOTP(secret).at(time.time() + PERIOD_SECONDS)
    assert (await log_in(bus, ADA, code=code)).user.email == ADA
    with pytest.raises(WrongCode):
        await log_in(bus, ADA, code=code)
    assert (await log_in(bus, ADA, code=recovery[0])).user.email == ADA


async def test_the_password_alone_does_not_tell_of_organizations(bus: Bus) -> None:
    await ada(bus)
    await log_in(bus, ADA)
    secret, _ = await set_up(bus)
    with pytest.raises(SecondFactorRequired):
        await bus.ask(Login(email=ADA, password=PASSWORD, organization_id="acme"))
    code = pyotp.TOTP(secret).at(time.time() + PERIOD_SECONDS)
    with pytest.raises(NotFound):
        await bus.ask(Login(email=ADA, password=PASSWORD, code=code, organization_id="acme"))
    await log_in(bus, ADA, code=code)


async def test_who_may_not_even_manage_themselves_can_still_set_one_up(ctx: Context, bus: Bus) -> None:
    await a_role(ctx.db, "default", "kiosk", ["inference:run"])
    await ada(bus)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("update memberships set role = 'kiosk' where role = 'user'")
    await demand_of(bus, "kiosk")
    session = await log_in(bus, ADA)
    assert await permissions(bus, session) == UNTIL_SET_UP
    await set_up(bus)
    assert await permissions(bus, session) == {"inference:run"}


async def test_guessing_codes_takes_ever_longer(bus: Bus) -> None:
    await ada(bus)
    await log_in(bus, ADA)
    _, recovery = await set_up(bus)
    for _ in range(ACCOUNT.failures):
        with pytest.raises(WrongCode):
            await log_in(bus, ADA, code="wrong")
    with pytest.raises(RateLimited):
        await log_in(bus, ADA, code=recovery[0])


async def test_who_must_have_one_may_do_nothing_else_until_it_is_there(bus: Bus, left: list[Message]) -> None:
    await ada(bus)
    session = await log_in(bus, ADA)
    digest = digest_of((await bus.ask(CreateKey(name="k"))).key)
    before = await permissions(bus, session)
    assert before > UNTIL_SET_UP
    await log_in(bus)
    await demand_of(bus, "user")
    await eventually(lambda: IdentityChanged(organization_id="default") in left)
    assert await permissions(bus, session) == UNTIL_SET_UP
    assert (await bus.ask(VerifyKey(digest=digest))).permissions == UNTIL_SET_UP
    session = await log_in(bus, ADA)
    assert (await bus.ask(GetSecondFactor())).required
    await set_up(bus)
    assert await permissions(bus, session) == before
    assert (await bus.ask(VerifyKey(digest=digest))).permissions == before
    await eventually(lambda: IdentityChanged(user_id=session.user.id) in left)


async def test_other_roles_need_none(bus: Bus) -> None:
    await ada(bus, "operator")
    await demand_of(bus, "admin", "user")
    assert Permission.MODEL_MANAGE in await permissions(bus, await log_in(bus, ADA))


async def test_what_the_policy_says_can_be_read_and_not_overwritten_unseen(bus: Bus) -> None:
    await log_in(bus)
    first = await bus.ask(GetSecondFactorPolicy(organization_id="default"))
    assert first.roles == ()
    second = await demand_of(bus, "user", "operator", "user", expected=first.version)
    with pytest.raises(PreconditionFailed):
        await demand_of(bus, expected=first.version)
    read = await bus.ask(GetSecondFactorPolicy(organization_id="default"))
    assert (read.roles, read.version) == (("operator", "user"), second)
    with pytest.raises(InvalidRequest, match="admn"):
        await demand_of(bus, "admn")


async def test_of_other_organizations_nothing_is_known(ctx: Context, bus: Bus) -> None:
    boss = await a_person(ctx.db, "acme", "admin")
    boss.acts()
    assert await demand_of(bus, "user", organization="acme") == 2
    for organization in ("default", "nowhere"):
        with pytest.raises(NotFound):
            await bus.ask(GetSecondFactorPolicy(organization_id=organization))
        with pytest.raises(NotFound):
            await demand_of(bus, organization=organization)


async def test_who_has_lost_it_gets_in_again(bus: Bus, left: list[Message]) -> None:
    user = await ada(bus)
    await log_in(bus, ADA)
    await set_up(bus)
    await log_in(bus)
    await bus.ask(ResetTotp(user_id=user))
    with pytest.raises(NotFound):
        await bus.ask(ResetTotp(user_id=user))
    assert not (await log_in(bus, ADA) and (await bus.ask(GetSecondFactor())).active)
    await eventually(lambda: left.count(IdentityChanged(user_id=user)) == 2)


async def test_nobody_resets_what_is_not_theirs(ctx: Context, bus: Bus) -> None:
    """Neither a stranger's, nor of somebody who may do more, nor of somebody who works elsewhere too."""
    boss, guest = await a_person(ctx.db, "acme", "admin"), await a_person(ctx.db, "umbrella", "user")
    helper = await a_person(ctx.db, "acme", "operator")
    await joins(ctx.db, Person(guest.id, "acme", guest.email), "user")
    boss.acts()
    with pytest.raises(Forbidden, match="your own"):
        await bus.ask(ResetTotp(user_id=str(boss.id)))
    for stranger in (str(uuid4()), str((await a_person(ctx.db, "umbrella", "admin")).id), "no uuid"):
        with pytest.raises(NotFound, match="user not found"):
            await bus.ask(ResetTotp(user_id=stranger))
    with pytest.raises(Forbidden, match="other organizations"):
        await bus.ask(ResetTotp(user_id=str(guest.id)))
    actor.become(actor.Actor(organization_id="acme", user_id=str(helper.id)))
    with pytest.raises(Forbidden):
        await bus.ask(ResetTotp(user_id=str(boss.id)))
