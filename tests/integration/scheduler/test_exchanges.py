"""What was asked and answered: kept sealed, shown to its organization, forgotten in time."""

import secrets
from dataclasses import replace

import pytest

from libs.common.bus.base import Bus
from libs.common.contracts.scheduler.requests import Exchange, ExchangeMessage, GetRequest, StoreExchange
from libs.common.database import EVERY_ORGANIZATION
from libs.common.sealing import Ring
from services.scheduler import exchanges
from services.scheduler.context import Context
from services.scheduler.store import requests as request_store
from tests.integration.scheduler.conftest import act_for
from tests.integration.scheduler.test_requests import a_row

SECRET = "the prompt that nobody else reads"
EXCHANGE = Exchange(messages=(ExchangeMessage(role="user", content=SECRET),), answer="the answer to it")
COMMAND = StoreExchange(request_id="r", organization_id="o", user_id="u", exchange=EXCHANGE)


@pytest.fixture
async def kept(ctx: Context) -> Context:
    """The exchange of a request of organization o."""
    await exchanges.keep(ctx, COMMAND)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await request_store.insert_requests(tx, [a_row("r")])
    return ctx


async def test_it_is_shown_with_its_request(kept: Context, bus: Bus) -> None:
    act_for("o")
    assert (await bus.ask(GetRequest(request_id="r"))).exchange == EXCHANGE


async def test_it_cannot_be_read_in_the_database(kept: Context) -> None:
    async with kept.db.transaction(EVERY_ORGANIZATION) as tx:
        (sealed,) = await (await tx.execute("select sealed from stored_exchanges")).fetchone() or (b"",)
    assert sealed
    assert SECRET.encode() not in bytes(sealed)


async def test_another_organization_sees_none(kept: Context) -> None:
    async with kept.db.transaction("p") as tx:
        assert await exchanges.read(kept, tx, "r") is None


async def test_redelivered_it_is_kept_once(kept: Context) -> None:
    await exchanges.keep(kept, COMMAND)
    async with kept.db.transaction(EVERY_ORGANIZATION) as tx:
        assert await (await tx.execute("select count(*) from stored_exchanges")).fetchone() == (1,)


async def test_without_its_key_the_request_is_shown_without_it(kept: Context) -> None:
    other = replace(kept, sealing=Ring(secrets.token_bytes(32)))
    async with kept.db.transaction("o") as tx:
        assert await exchanges.read(other, tx, "r") is None


async def test_a_new_key_takes_over(kept: Context) -> None:
    old, new = bytes(32), secrets.token_bytes(32)
    async with kept.db.transaction("o") as tx:
        assert await exchanges.read(replace(kept, sealing=Ring(new, old)), tx, "r") == EXCHANGE


async def test_old_ones_are_forgotten(kept: Context) -> None:
    await exchanges.keep(kept, COMMAND.model_copy(update={"request_id": "new"}))
    async with kept.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("update stored_exchanges set stored_at = now() - interval '31 days' where request_id = 'r'")
    assert await exchanges.forget_some(kept) == 1
    async with kept.db.transaction("o") as tx:
        assert await exchanges.read(kept, tx, "r") is None
        assert await exchanges.read(kept, tx, "new") == EXCHANGE


async def test_with_its_organization_it_is_gone(kept: Context) -> None:
    await exchanges.keep(kept, COMMAND.model_copy(update={"request_id": "s", "organization_id": "p"}))
    await exchanges.forget_organization(kept, "o")
    async with kept.db.transaction(EVERY_ORGANIZATION) as tx:
        assert await exchanges.read(kept, tx, "r") is None
        assert await exchanges.read(kept, tx, "s") == EXCHANGE


def test_nothing_of_it_is_in_a_repr() -> None:
    assert SECRET not in repr(COMMAND)
