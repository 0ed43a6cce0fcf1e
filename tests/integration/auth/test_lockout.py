"""Guessing passwords on a real database: it takes ever longer, and tells nothing."""

import asyncio
import time
from unittest.mock import ANY

import pyotp
import pytest

from libs.common.bus.base import Bus
from libs.common.contracts.auth.audit import RecordAudit
from libs.common.contracts.auth.second_factor import ActivateTotp, OfferTotp
from libs.common.contracts.auth.sessions import Login
from libs.common.contracts.message import Message
from libs.common.database import EVERY_ORGANIZATION
from libs.common.errors import RateLimited, SecondFactorRequired, ServiceError, Unauthenticated, WrongCode
from services.auth import lockout
from services.auth.context import Context
from services.auth.lockout import ACCOUNT, NETWORK
from services.auth.store import lockout as lockout_store
from tests.fixtures.buses import eventually
from tests.integration.auth.conftest import EMAIL, PASSWORD
from tests.integration.auth.logins import IP, log_in, stranger

NOBODY = "nobody@b.example"


async def guess(bus: Bus, email: str = EMAIL, *, ip: str = IP, password: str = "wrong") -> ServiceError:
    with pytest.raises(ServiceError) as refused:
        await log_in(bus, email, password, ip=ip)
    return refused.value


async def time_passes(ctx: Context, seconds: float) -> None:
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute(
            """
            update login_failures set failed_at = failed_at - make_interval(secs => %(s)s),
                                      locked_until = locked_until - make_interval(secs => %(s)s)
            """,
            {"s": seconds},
        )


@pytest.mark.parametrize("email", [EMAIL, NOBODY, "no address", "a\0@b"])
async def test_after_some_failures_the_account_waits_whether_there_is_one_or_not(bus: Bus, email: str) -> None:
    failures = [await guess(bus, email) for _ in range(ACCOUNT.failures)]
    assert {(type(each), each.message) for each in failures} == {(Unauthenticated, "wrong email or password")}
    locked = await guess(bus, email.upper())
    assert isinstance(locked, RateLimited)
    assert locked.retry_after == pytest.approx(lockout.FIRST_WAIT_SECONDS, abs=1)


async def test_the_right_password_waits_too_and_then_clears_all(ctx: Context, bus: Bus) -> None:
    for _ in range(ACCOUNT.failures):
        await guess(bus)
    assert isinstance(await guess(bus, password=PASSWORD), RateLimited)
    await time_passes(ctx, lockout.FIRST_WAIT_SECONDS + 1)
    await log_in(bus)
    for _ in range(ACCOUNT.failures):
        assert isinstance(await guess(bus), Unauthenticated)


async def test_each_failure_doubles_the_wait_up_to_the_longest(ctx: Context, bus: Bus) -> None:
    waits = []
    for _ in range(ACCOUNT.failures - 1):
        await guess(bus, NOBODY)
    for _ in range(10):
        await guess(bus, NOBODY)
        waits.append((await guess(bus, NOBODY)).retry_after)
        await time_passes(ctx, ACCOUNT.longest_wait_seconds + 1)
    assert waits == [pytest.approx(wait, abs=1) for wait in (5, 10, 20, 40, 80, 160, 320, 640, 900, 900)]


async def test_failures_are_forgotten(ctx: Context, bus: Bus) -> None:
    for _ in range(ACCOUNT.failures - 1):
        await guess(bus)
    await time_passes(ctx, lockout.FORGOTTEN_AFTER_SECONDS + 1)
    for _ in range(ACCOUNT.failures):
        assert isinstance(await guess(bus), Unauthenticated)


async def test_one_account_does_not_wait_for_another(bus: Bus) -> None:
    for _ in range(ACCOUNT.failures + 1):
        await guess(bus, NOBODY)
    await log_in(bus)


async def test_a_network_waits_after_more_failures(ctx: Context, bus: Bus) -> None:
    stranger("2001:db8:1:2::3")
    for number in range(NETWORK.failures):
        await lockout.note_failure(ctx, f"{number}@b")
    assert isinstance(await guess(bus, password=PASSWORD, ip="2001:db8:1:2:ffff::1"), RateLimited), "the same network"
    await log_in(bus, ip="2001:db8:1:3::3")


async def test_networks_of_ipv4_are_not_one_where_a_socket_is_for_both(ctx: Context, bus: Bus) -> None:
    stranger("::ffff:203.0.113.9")
    for number in range(NETWORK.failures):
        await lockout.note_failure(ctx, f"{number}@b")
    assert isinstance(await guess(bus, password=PASSWORD, ip="203.0.113.9"), RateLimited), "the same address"
    await log_in(bus, ip="::ffff:198.51.100.1")


async def test_many_guesses_at_once_are_no_more_than_one_after_the_other(bus: Bus, ctx: Context) -> None:
    answers = await asyncio.gather(*(guess(bus) for _ in range(30)))
    tried = sum(isinstance(answer, Unauthenticated) for answer in answers)
    assert tried <= ACCOUNT.failures + 1, "one more may be under way while the last is counted"


async def test_a_flood_is_refused_before_it_costs_anything(ctx: Context, bus: Bus) -> None:
    stranger()
    logins = [bus.ask(Login(email=f"{number}@b", password="wrong"), timeout=30) for number in range(60)]
    answers = await asyncio.gather(*logins, return_exceptions=True)
    codes = [answer.code for answer in answers if isinstance(answer, ServiceError)]
    assert codes.count("overloaded") > 0
    assert codes.count("overloaded") + codes.count("unauthenticated") == 60
    await log_in(bus)


async def test_codes_of_the_second_factor_are_not_guessed_either(ctx: Context, bus: Bus) -> None:
    await log_in(bus)
    secret = (await bus.ask(OfferTotp(password=PASSWORD))).secret
    await bus.ask(ActivateTotp(code=pyotp.TOTP(secret).now()))
    following = pyotp.TOTP(secret).at(int(time.time()) + 30)
    for _ in range(ACCOUNT.failures + 1):
        with pytest.raises(SecondFactorRequired):
            await log_in(bus)
    for _ in range(ACCOUNT.failures):
        with pytest.raises(WrongCode):
            await log_in(bus, code="nonsense")
    with pytest.raises(RateLimited):
        await log_in(bus, code=following)
    await time_passes(ctx, lockout.FIRST_WAIT_SECONDS + 1)
    await log_in(bus, code=following)


async def test_failures_are_told_to_the_audit_log(bus: Bus, left: list[Message]) -> None:
    for _ in range(ACCOUNT.failures):
        await guess(bus)
    await guess(bus, NOBODY)
    await guess(bus, "a password instead of an address")

    def events() -> list[RecordAudit]:
        return [each for each in left if isinstance(each, RecordAudit) and each.action.startswith("login.")]

    await eventually(lambda: len(events()) == ACCOUNT.failures + 3)
    told = events()
    of_admin, of_nobody, of_text = told[0], told[-2], told[-1]
    assert (of_admin.action, of_admin.after) == ("login.failed", {})
    assert (of_admin.organization_id, of_admin.user_id, of_admin.ip) == ("default", "", IP)
    assert of_admin.object
    (locked,) = [each for each in told if each.action == "login.locked"]
    assert locked.after == {"failures": ACCOUNT.failures, "seconds": ANY}
    assert of_nobody.after == {"email": NOBODY}
    assert "password" not in of_text.model_dump_json(), "what people type into the wrong field"


async def test_what_is_forgotten_is_deleted(ctx: Context, bus: Bus) -> None:
    await guess(bus)
    async with ctx.db.transaction() as tx:
        await lockout_store.forget_all(tx, 3600)
        assert (await (await tx.execute("select count(*) from login_failures")).fetchone()) == (2,)
    await time_passes(ctx, 3601)
    async with ctx.db.transaction() as tx:
        await lockout_store.forget_all(tx, 3600)
        assert (await (await tx.execute("select count(*) from login_failures")).fetchone()) == (0,)


async def test_another_cost_makes_another_hash_at_the_next_login(ctx: Context, bus: Bus) -> None:
    ctx.passwords.rounds = 5
    await log_in(bus)
    async with ctx.db.transaction() as tx:
        assert (await (await tx.execute("select left(password_hash, 7) from users")).fetchone()) == ("$2b$05$",)
    await log_in(bus)
