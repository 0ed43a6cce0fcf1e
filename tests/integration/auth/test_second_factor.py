"""The second factor on a real database: set up, asked for, accepted once, lost, demanded."""

import asyncio
import base64
import re
import time
from uuid import uuid4

import pyotp
import pytest

from libs.common import actor
from libs.common.bus.base import Bus
from libs.common.contracts.auth.identity import IdentityChanged
from libs.common.contracts.auth.second_factor import (
    ActivateTotp,
    GetSecondFactor,
    OfferTotp,
    RemoveTotp,
    RenewRecoveryCodes,
)
from libs.common.contracts.message import Message
from libs.common.database import EVERY_ORGANIZATION
from libs.common.errors import Conflict, Forbidden, NotFound, RateLimited, SecondFactorRequired, WrongCode
from services.auth import addresses, second_factor
from services.auth.context import Context
from services.auth.lockout import ACCOUNT
from services.auth.second_factor import PERIOD_SECONDS, demand
from services.auth.store.users import User
from tests.fixtures.buses import eventually
from tests.integration.auth.conftest import PASSWORD

SESSION = uuid4()


@pytest.fixture(autouse=True)
async def logged_in(ctx: Context, admin: User) -> None:
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute(
            "insert into user_sessions (id, user_id, organization_id, expires_at)"
            " values (%s, %s, %s, now() + interval '1 day')",
            [SESSION, admin.id, admin.organization_id],
        )


def in_session(user: User) -> None:
    """From here on this task works for a user who has logged in."""
    actor.become(actor.Actor(organization_id=user.organization_id, user_id=str(user.id), session_id=str(SESSION)))


async def a_second_factor(bus: Bus, user: User) -> tuple[str, tuple[str, ...]]:
    """Active; its secret and its recovery codes. The current code is used up."""
    in_session(user)
    secret = (await bus.ask(OfferTotp(password=PASSWORD))).secret
    activated = await bus.ask(ActivateTotp(code=pyotp.TOTP(secret).now()))
    return secret, activated.codes


def next_code(secret: str) -> str:
    return pyotp.TOTP(secret).at(time.time() + PERIOD_SECONDS)


async def demanded(ctx: Context, user: User, code: str) -> None:
    async with ctx.db.transaction() as tx:
        await demand(ctx, tx, user, code)


async def test_without_one_nothing_is_demanded(ctx: Context, admin: User) -> None:
    await demanded(ctx, admin, "")


async def test_what_is_offered_is_not_demanded_until_a_code_came_back(ctx: Context, bus: Bus, admin: User) -> None:
    in_session(admin)
    offered = await bus.ask(OfferTotp(password=PASSWORD))
    await demanded(ctx, admin, "")
    with pytest.raises(Forbidden, match="wrong code"):
        await bus.ask(ActivateTotp(code="000000" if pyotp.TOTP(offered.secret).now() != "000000" else "111111"))
    assert not (await bus.ask(GetSecondFactor())).active
    codes = (await bus.ask(ActivateTotp(code=pyotp.TOTP(offered.secret).now()))).codes
    assert len(set(codes)) == 10
    assert all(re.fullmatch(r"([a-z2-7]{4}-){3}[a-z2-7]{4}", code) for code in codes)
    state = await bus.ask(GetSecondFactor())
    assert (state.active, state.recovery_codes_left) == (True, 10)
    with pytest.raises(SecondFactorRequired):
        await demanded(ctx, admin, " ")


async def test_the_app_reads_uri_and_pictures(bus: Bus, admin: User) -> None:
    in_session(admin)
    offered = await bus.ask(OfferTotp(password=PASSWORD))
    parsed = pyotp.parse_uri(offered.uri)
    assert (parsed.secret, parsed.name, parsed.issuer) == (offered.secret, admin.email, "OllamaMax")
    assert offered.qr_svg.startswith("<svg ")
    assert base64.b64decode(offered.qr_png).startswith(b"\x89PNG\r\n")
    assert offered.secret not in repr(offered)


async def test_a_code_is_accepted_once(ctx: Context, bus: Bus, admin: User) -> None:
    if (left := PERIOD_SECONDS - time.time() % PERIOD_SECONDS) < 5:
        await asyncio.sleep(left)  # the code must be the same when it has been used
    secret, _ = await a_second_factor(bus, admin)
    with pytest.raises(WrongCode):  # it has activated the factor
        await demanded(ctx, admin, pyotp.TOTP(secret).now())
    code = next_code(secret)
    await demanded(ctx, admin, f" {code[:3]} {code[3:]} ")
    with pytest.raises(WrongCode):
        await demanded(ctx, admin, code)


async def test_of_many_at_once_one_is_let_in(ctx: Context, bus: Bus, admin: User) -> None:
    secret, recovery = await a_second_factor(bus, admin)
    for code in (next_code(secret), recovery[3]):
        tries = await asyncio.gather(*(demanded(ctx, admin, code) for _ in range(8)), return_exceptions=True)
        assert sorted(str(type(each).__name__) for each in tries) == ["NoneType"] + ["WrongCode"] * 7


async def test_a_login_that_fails_later_uses_nothing_up(ctx: Context, bus: Bus, admin: User) -> None:
    _, recovery = await a_second_factor(bus, admin)

    async def failing() -> None:
        async with ctx.db.transaction() as tx:
            await demand(ctx, tx, admin, recovery[0])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await failing()
    await demanded(ctx, admin, recovery[0].upper().replace("-", " "))
    assert (await bus.ask(GetSecondFactor())).recovery_codes_left == 9


@pytest.mark.parametrize("code", ["12345", "1234567", "ü" * 6, "\0" * 6, "aaaa-aaaa-aaaa-aaaa", "x" * 100])
async def test_what_is_no_code(ctx: Context, bus: Bus, admin: User, code: str) -> None:
    await a_second_factor(bus, admin)
    with pytest.raises(WrongCode):
        await demanded(ctx, admin, code)


def test_codes_of_the_neighbouring_periods_are_good() -> None:
    secret, now = pyotp.random_base32(), 1_000_000_000.0
    totp = pyotp.TOTP(secret)
    counters = [second_factor.matching_counter(secret, totp.at(now + shift), now) for shift in (-60, -30, 0, 30, 60)]
    this = int(now) // PERIOD_SECONDS
    assert counters == [None, this - 1, this, this + 1, None]


def test_codes_are_those_of_rfc_6238() -> None:
    secret = base64.b32encode(b"12345678901234567890").decode()
    vectors = {59: "287082", 1111111109: "081804", 1234567890: "005924", 20000000000: "353130"}
    for at, code in vectors.items():
        assert second_factor.matching_counter(secret, code, at) == at // 30


async def test_new_recovery_codes_replace_the_old(ctx: Context, bus: Bus, admin: User) -> None:
    _, old = await a_second_factor(bus, admin)
    new = (await bus.ask(RenewRecoveryCodes(password=PASSWORD, code=old[0]))).codes
    assert not set(new) & set(old)
    with pytest.raises(WrongCode):
        await demanded(ctx, admin, old[1])
    await demanded(ctx, admin, new[0])


async def test_removing_it_takes_password_and_code(ctx: Context, bus: Bus, admin: User, left: list[Message]) -> None:
    secret, recovery = await a_second_factor(bus, admin)
    for password, code in (("wrong", recovery[0]), (PASSWORD, ""), (PASSWORD, "wrong")):
        with pytest.raises(Forbidden):
            await bus.ask(RemoveTotp(password=password, code=code))
    for _ in range(ACCOUNT.failures):  # not to have been asked yet is no failure
        with pytest.raises(Forbidden):
            await bus.ask(RemoveTotp(password=PASSWORD, code=""))
    await bus.ask(RemoveTotp(password=PASSWORD, code=recovery[0]))
    await demanded(ctx, admin, "")
    assert (await bus.ask(GetSecondFactor())).recovery_codes_left == 0
    with pytest.raises(NotFound):
        await bus.ask(RemoveTotp(password=PASSWORD, code=next_code(secret)))
    await eventually(lambda: left.count(IdentityChanged(user_id=str(admin.id))) == 3)  # made, activated, removed


async def test_an_active_one_is_not_replaced(bus: Bus, admin: User) -> None:
    await a_second_factor(bus, admin)
    with pytest.raises(Conflict):
        await bus.ask(OfferTotp(password=PASSWORD))
    with pytest.raises(Conflict):
        await bus.ask(ActivateTotp(code="123456"))


async def test_what_was_offered_is_not_activated_by_guessing(bus: Bus, admin: User) -> None:
    in_session(admin)
    secret = (await bus.ask(OfferTotp(password=PASSWORD))).secret
    for _ in range(ACCOUNT.failures):
        with pytest.raises(Forbidden, match="wrong code"):
            await bus.ask(ActivateTotp(code="guess"))
    with pytest.raises(RateLimited):
        await bus.ask(ActivateTotp(code=pyotp.TOTP(secret).now()))


@pytest.mark.parametrize("active", [True, False])
async def test_many_codes_at_once_are_no_more_guesses_than_one_after_the_other(
    bus: Bus, admin: User, active: bool
) -> None:
    if active:
        await a_second_factor(bus, admin)
    else:
        in_session(admin)
        await bus.ask(OfferTotp(password=PASSWORD))
    guess = RemoveTotp(password=PASSWORD, code="guess") if active else ActivateTotp(code="guess")
    answers = await asyncio.gather(*(bus.ask(guess) for _ in range(20)), return_exceptions=True)
    tried = sum(isinstance(answer, Forbidden) for answer in answers)
    assert tried <= ACCOUNT.failures + 1, "one more may be under way while the last is counted"


async def test_the_longest_address_fits_into_the_picture(ctx: Context, bus: Bus, admin: User) -> None:
    address = "\U0001f600" * 40 + "@" + "\U0001f600" * 23
    assert addresses.is_address(address)
    assert not addresses.is_address(address + "xx")
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("update users set email = %s where id = %s", [address, admin.id])
    in_session(admin)
    assert (await bus.ask(OfferTotp(password=PASSWORD))).qr_png


async def test_keys_and_wrong_passwords_set_up_nothing(bus: Bus, admin: User) -> None:
    actor.become(actor.Actor(organization_id="default", user_id=str(admin.id), key_id=str(uuid4())))
    with pytest.raises(Forbidden, match="API key"):
        await bus.ask(OfferTotp(password=PASSWORD))
    in_session(admin)
    with pytest.raises(Forbidden, match="wrong password"):
        await bus.ask(OfferTotp(password="wrong"))
    with pytest.raises(NotFound):
        await bus.ask(ActivateTotp(code="123456"))


async def test_the_database_holds_neither_secret_nor_codes(ctx: Context, bus: Bus, admin: User) -> None:
    secret, recovery = await a_second_factor(bus, admin)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        rows = await tx.execute(
            """
            select t::text from user_totp as t union all select t::text from recovery_codes as t
            union all select t::text from outbox as t union all select t::text from audit_log as t
            """
        )
        text = "".join(row for (row,) in await rows.fetchall())
    assert str(admin.id) in text
    for each in (secret, secret.encode().hex(), *recovery):
        assert each not in text
