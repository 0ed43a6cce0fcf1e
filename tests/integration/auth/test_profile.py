"""One's own account, on a real database."""

import asyncio

import pytest

from libs.common.bus.base import Bus
from libs.common.contracts.auth.identity import IdentityChanged, VerifySession
from libs.common.contracts.auth.sessions import ListSessions
from libs.common.contracts.auth.users import ChangePassword, GetProfile, UpdateProfile
from libs.common.contracts.message import Message
from libs.common.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    PreconditionFailed,
    RateLimited,
    Unauthenticated,
    Unavailable,
)
from services.auth.context import Context
from services.auth.lockout import ACCOUNT
from services.auth.store.users import User
from tests.fixtures.buses import eventually
from tests.integration.auth.conftest import EMAIL, PASSWORD, act_for
from tests.integration.auth.logins import a_user, act_in, log_in, session_id

NEW = "another good one"


async def test_who_one_is(bus: Bus, admin: User) -> None:
    act_for(admin)
    profile = await bus.ask(GetProfile())
    assert (profile.id, profile.email, profile.role) == (str(admin.id), EMAIL.lower(), "admin")
    assert (profile.organization_id, profile.disabled) == ("default", False)


async def test_name_and_email_change(bus: Bus, left: list[Message]) -> None:
    session = await log_in(bus)
    before = await bus.ask(GetProfile())
    named = await bus.ask(UpdateProfile(name=" Ada ", expected_version=before.version))
    assert (named.name, named.email, named.version) == ("Ada", EMAIL.lower(), before.version + 1)
    with pytest.raises(PreconditionFailed):
        await bus.ask(UpdateProfile(name="Eve", expected_version=before.version))
    moved = await bus.ask(UpdateProfile(name="Ada", email="ADA@b.example", password=PASSWORD))
    assert moved.email == "ada@b.example"
    await eventually(lambda: IdentityChanged(user_id=session.user.id) in left)
    assert (await bus.ask(VerifySession(session_id=session_id(session)))).email == "ada@b.example"
    await log_in(bus, "ada@b.example")
    with pytest.raises(Unauthenticated):
        await log_in(bus, EMAIL)


async def test_another_email_needs_the_password(bus: Bus) -> None:
    await log_in(bus)
    for password in ("", "wrong"):
        with pytest.raises(Forbidden, match="wrong password"):
            await bus.ask(UpdateProfile(name="", email="ada@b.example", password=password))
    await bus.ask(UpdateProfile(name="", email=EMAIL))


@pytest.mark.parametrize(("email", "error"), [("ada@b.example", Conflict), ("no address", InvalidRequest)])
async def test_emails_one_cannot_have(bus: Bus, email: str, error: type[Exception]) -> None:
    await log_in(bus)
    await a_user(bus, "ada@b.example")
    with pytest.raises(error):
        await bus.ask(UpdateProfile(name="", email=email, password=PASSWORD))


async def test_addresses_are_not_tried_out(bus: Bus) -> None:
    await log_in(bus)
    await a_user(bus, "ada@b.example")
    await log_in(bus)
    taken = UpdateProfile(name="", email="ada@b.example", password=PASSWORD)
    for _ in range(ACCOUNT.failures):
        with pytest.raises(Conflict):
            await bus.ask(taken)
    with pytest.raises(RateLimited):
        await bus.ask(taken)


async def test_a_new_password_ends_all_other_sessions(bus: Bus) -> None:
    other, current = await log_in(bus), await log_in(bus)
    await bus.ask(ChangePassword(current=PASSWORD, new=NEW))
    assert (await bus.ask(VerifySession(session_id=session_id(current)))).email == EMAIL.lower()
    with pytest.raises(Unauthenticated):
        await bus.ask(VerifySession(session_id=session_id(other)))
    with pytest.raises(Unauthenticated):
        await log_in(bus)
    await log_in(bus, password=NEW)


@pytest.mark.parametrize(
    ("current", "new", "error"),
    [("wrong", NEW, Forbidden), (PASSWORD, "short", InvalidRequest), (PASSWORD, PASSWORD, InvalidRequest)],
)
async def test_passwords_that_are_refused(bus: Bus, current: str, new: str, error: type[Exception]) -> None:
    await log_in(bus)
    with pytest.raises(error):
        await bus.ask(ChangePassword(current=current, new=new))
    await log_in(bus)


async def test_a_stolen_session_does_not_guess_the_password(bus: Bus) -> None:
    session = await log_in(bus)
    for _ in range(ACCOUNT.failures):
        with pytest.raises(Forbidden):
            await bus.ask(ChangePassword(current="wrong", new=NEW))
    act_in(session)
    with pytest.raises(RateLimited):
        await bus.ask(ChangePassword(current=PASSWORD, new=NEW))


async def test_a_login_that_is_under_way_is_no_way_around(
    ctx: Context, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = await log_in(bus)
    checked, go_on, check = asyncio.Event(), asyncio.Event(), ctx.passwords.matches

    async def slowly(password: str, hashed: str | None) -> bool:
        matches = await check(password, hashed)
        if not checked.is_set():
            checked.set()
            await go_on.wait()
        return matches

    monkeypatch.setattr(ctx.passwords, "matches", slowly)
    thief = asyncio.create_task(log_in(bus))
    await checked.wait()
    act_in(owner)
    await bus.ask(ChangePassword(current=PASSWORD, new=NEW))
    go_on.set()
    with pytest.raises(Unavailable, match="try again"):
        await thief
    assert [each.current for each in (await bus.ask(ListSessions())).items] == [True]


async def test_an_api_key_changes_nothing(bus: Bus, admin: User) -> None:
    act_for(admin)
    with pytest.raises(Forbidden, match="needs a login"):
        await bus.ask(UpdateProfile(name="Ada"))
