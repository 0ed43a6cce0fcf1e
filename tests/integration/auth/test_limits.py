"""Limits are set by admins, count for those they are about, and reach the gateways at once."""

from uuid import uuid4

import pytest

from libs.common import actor
from libs.common.bus.base import Bus
from libs.common.contracts.auth.identity import IdentityChanged, Limits
from libs.common.contracts.auth.limits import DeleteLimits, GetLimits, ListLimits, PutLimits
from libs.common.contracts.message import Message
from libs.common.contracts.paging import PageRequest
from libs.common.contracts.permissions import OPERATING_ORGANIZATION as HERE
from libs.common.database import EVERY_ORGANIZATION
from libs.common.errors import Conflict, NotFound, PreconditionFailed
from services.auth import limits
from services.auth.context import Context
from services.auth.store import users as user_store
from tests.fixtures.buses import eventually

FEW = Limits(requests_per_minute=3)


async def a_key(ctx: Context, owner: user_store.User) -> str:
    async with ctx.db.transaction(HERE) as tx:
        rows = await tx.execute(
            "insert into api_keys (organization_id, user_id, name, prefix, digest)"
            " values (%s, %s, 'k', 'omx_', repeat('a', 64)) returning id",
            [HERE, owner.id],
        )
        row = await rows.fetchone()
    assert row is not None
    return str(row[0])


async def test_a_caller_has_those_of_key_user_organization_and_models(
    ctx: Context, bus: Bus, admin: user_store.User
) -> None:
    key = await a_key(ctx, admin)
    for scope, identifier in [("key", key), ("user", str(admin.id)), ("organization", HERE), ("model", "llama*")]:
        await bus.ask(PutLimits(organization_id=HERE, scope=scope, id=identifier, limits=FEW))
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        by_key = await limits.applied(tx, HERE, admin.id, key)
        by_session = await limits.applied(tx, HERE, admin.id, None)
        elsewhere = await limits.applied(tx, "other", admin.id, key)
    shown = {(each.scope, each.id, each.models) for each in by_key}
    common = {("organization", HERE, "*"), ("user", f"{HERE}/{admin.id}", "*"), ("model", f"{HERE}/llama*", "llama*")}
    assert shown == common | {("key", key, "*")}
    assert {(each.scope, each.id, each.models) for each in by_session} == common
    assert elsewhere == ()
    assert all(each.limits == FEW for each in by_key)


@pytest.mark.parametrize("scope", ["user", "key"])
@pytest.mark.parametrize("identifier", ["nobody", str(uuid4())])
async def test_nobody_has_no_limits(bus: Bus, scope: str, identifier: str) -> None:
    put = PutLimits.model_validate({"organization_id": HERE, "scope": scope, "id": identifier, "limits": FEW})
    with pytest.raises(NotFound):
        await bus.ask(put)


async def test_another_organizations_key_is_nobodys(ctx: Context, bus: Bus, admin: user_store.User) -> None:
    key = await a_key(ctx, admin)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("insert into organizations (id, name) values ('other', 'Other')")
    with pytest.raises(NotFound):
        await bus.ask(PutLimits(organization_id="other", scope="key", id=key, limits=FEW))
    with pytest.raises(NotFound):
        await bus.ask(PutLimits(organization_id="other", scope="user", id=str(admin.id), limits=FEW))


async def test_who_overwrites_unread_limits_is_refused(bus: Bus) -> None:
    first = await bus.ask(PutLimits(organization_id=HERE, scope="model", id="a*", limits=FEW))
    more = Limits(tokens_per_day=10)
    second = await bus.ask(
        PutLimits(organization_id=HERE, scope="model", id="A*", limits=more, expected_version=first.version)
    )
    assert (second.limits, second.version) == (more, first.version + 1)
    with pytest.raises(PreconditionFailed):
        await bus.ask(DeleteLimits(organization_id=HERE, scope="model", id="a*", expected_version=first.version))
    await bus.ask(DeleteLimits(organization_id=HERE, scope="model", id="a*", expected_version=second.version))
    with pytest.raises(NotFound):
        await bus.ask(GetLimits(organization_id=HERE, scope="model", id="a*"))


async def test_patterns_are_bounded(monkeypatch: pytest.MonkeyPatch, bus: Bus) -> None:
    monkeypatch.setattr(limits, "MOST_MODEL_LIMITS", 1)
    await bus.ask(PutLimits(organization_id=HERE, scope="model", id="a*", limits=FEW))
    await bus.ask(PutLimits(organization_id=HERE, scope="model", id="a*", limits=FEW))
    with pytest.raises(Conflict):
        await bus.ask(PutLimits(organization_id=HERE, scope="model", id="b*", limits=FEW))


async def test_pages_show_each_once(bus: Bus) -> None:
    for name in "abcde":
        await bus.ask(PutLimits(organization_id=HERE, scope="model", id=name, limits=FEW))
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await bus.ask(ListLimits(organization_id=HERE, page=PageRequest(limit=2, cursor=cursor)))
        seen += [item.id for item in page.items]
        cursor = page.next_cursor
    assert seen == list("abcde")


async def test_gateways_forget_whom_it_is_about(
    ctx: Context, bus: Bus, admin: user_store.User, left: list[Message]
) -> None:
    actor.become(actor.Actor(organization_id=HERE))
    key = await a_key(ctx, admin)
    for scope, identifier in [("key", key), ("user", str(admin.id)), ("organization", HERE), ("model", "llama*")]:
        await bus.ask(PutLimits(organization_id=HERE, scope=scope, id=identifier, limits=FEW))
    told = [
        IdentityChanged(key_digest="a" * 64),
        IdentityChanged(user_id=str(admin.id)),
        IdentityChanged(organization_id=HERE),
    ]
    await eventually(lambda: all(event in left for event in told))


async def test_a_keys_limits_come_and_go_with_it(ctx: Context, admin: user_store.User) -> None:
    key = await a_key(ctx, admin)
    async with ctx.db.transaction(HERE) as tx:
        await limits.put_key_limits(tx, HERE, key, FEW)
        assert await limits.key_limits(tx, HERE, key) == FEW
        await limits.put_key_limits(tx, HERE, key, Limits())
        assert await limits.key_limits(tx, HERE, key) is None
        await limits.put_key_limits(tx, HERE, key, FEW)
        await tx.execute("delete from api_keys where id = %s", [key])
        assert await limits.key_limits(tx, HERE, key) is None
