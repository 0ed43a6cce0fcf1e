"""What needs the password, while somebody else changes the account. On a real database."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from libs.common import actor
from libs.common.bus.base import Bus
from libs.common.contracts.auth.keys import CreateKey
from libs.common.contracts.auth.second_factor import OfferTotp
from libs.common.contracts.auth.sessions import EndSession
from libs.common.contracts.auth.users import ChangePassword, GetProfile, UpdateProfile
from libs.common.contracts.message import Query
from libs.common.database import EVERY_ORGANIZATION
from libs.common.errors import Unauthenticated, Unavailable
from services.auth.context import Context
from tests.fixtures.database import somebody_waits
from tests.integration.auth.conftest import EMAIL, PASSWORD
from tests.integration.auth.logins import act_in, log_in

NEW = "another good one"

Stopped = Callable[[Query[Any]], Coroutine[Any, Any, "asyncio.Task[Any]"]]


@pytest.fixture
def go_on() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
def stopped(ctx: Context, bus: Bus, go_on: asyncio.Event, monkeypatch: pytest.MonkeyPatch) -> Stopped:
    """Asks, as whom this task acts for, and returns when the password was found right; the rest waits for ``go_on``."""
    checked, check = asyncio.Event(), ctx.passwords.matches

    async def slowly(password: str, hashed: str | None) -> bool:
        matches = await check(password, hashed)
        if not checked.is_set():
            checked.set()
            await go_on.wait()
        return matches

    async def asked(query: Query[Any]) -> "asyncio.Task[Any]":
        monkeypatch.setattr(ctx.passwords, "matches", slowly)
        task = asyncio.create_task(bus.ask(query))
        await checked.wait()
        return task

    return asked


@pytest.mark.parametrize(
    "query",
    [
        ChangePassword(current=PASSWORD, new="of a thief, this one"),
        UpdateProfile(name="Ada", email="thief@b.example", password=PASSWORD),
        OfferTotp(password=PASSWORD),
    ],
    ids=lambda query: type(query).__name__,
)
async def test_who_knew_the_old_password_is_not_quicker_than_the_new_one(
    bus: Bus, stopped: Stopped, go_on: asyncio.Event, query: Query[Any]
) -> None:
    owner = await log_in(bus)
    await log_in(bus)
    thief = await stopped(query)
    act_in(owner)
    await bus.ask(ChangePassword(current=PASSWORD, new=NEW))
    go_on.set()
    with pytest.raises(Unavailable, match="try again"):
        await thief
    assert (await log_in(bus, EMAIL, NEW)).user.email == EMAIL.lower()


async def test_a_new_name_does_not_bring_back_the_old_address(ctx: Context, bus: Bus) -> None:
    session = await log_in(bus)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("update users set email = 'new@b.example' where email = %s", [EMAIL.lower()])
        renaming = asyncio.create_task(bus.ask(UpdateProfile(name="Ada", email=EMAIL)))
        await somebody_waits(tx)
    await renaming
    act_in(session)
    assert (await bus.ask(GetProfile())).email == "new@b.example"


@pytest.mark.parametrize("how", ["session", "key"])
async def test_what_has_ended_meanwhile_does_nothing_any_more(ctx: Context, bus: Bus, how: str) -> None:
    session = await log_in(bus)
    if how == "session":
        await bus.ask(EndSession())
    else:
        key = await bus.ask(CreateKey(name="k"))
        async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
            await tx.execute("update api_keys set expires_at = now()")
        actor.become(actor.Actor(organization_id="default", user_id=session.user.id, key_id=key.id))
    with pytest.raises(Unauthenticated):
        await bus.ask(CreateKey(name="another"))
