"""API keys: whose they are, what they may, and until when."""

import asyncio
import math
import time
from typing import Any
from uuid import uuid4

import pytest

from libs.common.bus.base import Bus
from libs.common.contracts.auth.identity import Identity, IdentityChanged, Limits, VerifyKey
from libs.common.contracts.auth.keys import (
    ApiKey,
    CreatedApiKey,
    CreateKey,
    GetKey,
    ListKeys,
    RevokeKey,
    UpdateKey,
)
from libs.common.contracts.auth.limits import PutLimits
from libs.common.contracts.message import Message
from libs.common.contracts.paging import PageRequest
from libs.common.contracts.permissions import Permission
from libs.common.database import EVERY_ORGANIZATION
from libs.common.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    PreconditionFailed,
    Unauthenticated,
)
from services.auth import keys
from services.auth.context import Context
from services.auth.keys import digest_of
from tests.fixtures.buses import eventually
from tests.integration.auth.people import Person, a_person, a_role, joins

RUN = frozenset({"model:read", "inference:run"})


@pytest.fixture
async def ada(ctx: Context) -> Person:
    return await a_person(ctx.db, "acme", "user", "ada")


@pytest.fixture
async def boss(ctx: Context) -> Person:
    return await a_person(ctx.db, "acme", "admin")


async def a_key(bus: Bus, owner: Person, **wish: Any) -> CreatedApiKey:
    """This task acts for its owner from here on."""
    owner.acts()
    return await bus.ask(CreateKey.model_validate({"name": "laptop", **wish}))


async def identity_of(bus: Bus, key: CreatedApiKey) -> Identity:
    return await bus.ask(VerifyKey(digest=digest_of(key.key)))


async def listed(bus: Bus, user_id: str | None) -> tuple[ApiKey, ...]:
    return (await bus.ask(ListKeys(user_id=user_id))).items


async def test_keys_are_listed_in_pages_without_their_secret(bus: Bus, ada: Person) -> None:
    made = [await a_key(bus, ada, name=name) for name in ("first", "second", "third")]
    first = await bus.ask(ListKeys(user_id=str(ada.id), paging=PageRequest(limit=2)))
    assert [key.name for key in first.items] == ["third", "second"]
    assert first.next_cursor is not None
    last = await bus.ask(ListKeys(user_id=str(ada.id), paging=PageRequest(limit=2, cursor=first.next_cursor)))
    assert ([key.name for key in last.items], last.next_cursor) == (["first"], None)
    assert not any(key.key in repr((first, last, made)) for key in made), "not even in a log of the answer"


@pytest.mark.parametrize("cursor", ["bm9wZQ==", "W251bGwsIngiXQ==", "WzFlOTk5LCJ4Il0=", "WzEuMCwieCJd"])
async def test_cursors_that_are_none(bus: Bus, ada: Person, cursor: str) -> None:
    ada.acts()
    with pytest.raises(InvalidRequest, match="cursor"):
        await bus.ask(ListKeys(user_id=str(ada.id), paging=PageRequest(cursor=cursor)))


async def test_a_key_may_what_its_owner_may_within_its_scopes(ctx: Context, bus: Bus, ada: Person) -> None:
    key = await a_key(bus, ada, scopes=RUN, models=["llama3*"], limits=Limits(requests_per_minute=5))
    identity = await identity_of(bus, key)
    assert (identity.permissions, identity.models) == (RUN, (("llama3*",),))
    assert [(applied.scope, applied.limits.requests_per_minute) for applied in identity.limits] == [("key", 5)]
    await a_role(ctx.db, "acme", "reader", ["model:read", "self:read"], ["llama*", "qwen*"])
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("update memberships set role = 'reader' where user_id = %s", [ada.id])
    identity = await identity_of(bus, key)
    assert (identity.permissions, identity.models) == (
        frozenset({"model:read"}),
        (("llama*", "qwen*"), ("llama3*",)),
    )


async def test_nobody_gives_a_key_more_than_they_have(bus: Bus, ada: Person) -> None:
    for scopes in ([Permission.MODEL_MANAGE], [Permission.NODE_READ], list(Permission)):
        with pytest.raises(Forbidden, match="you do not have"):
            await a_key(bus, ada, scopes=scopes)


async def test_a_key_makes_keys_that_may_no_more_than_itself(bus: Bus, ada: Person) -> None:
    expiry = time.time() + 3600
    scopes = RUN | {"self:manage"}
    parent = await a_key(bus, ada, scopes=scopes, models=["llama3*"], expires_at=expiry)
    ada.acts(key_id=parent.id)
    child = await bus.ask(CreateKey(name="child"))
    assert (child.scopes, child.models) == (scopes, ("llama3*",))
    assert child.expires_at == pytest.approx(expiry, abs=1e-5)
    narrow = await bus.ask(CreateKey.model_validate({"name": "narrow", "models": ["llama3.2:1b"], "scopes": RUN}))
    assert (narrow.models, narrow.scopes) == (("llama3.2:1b",), RUN)
    for more in (
        {"models": ["llama*"]},
        {"scopes": [Permission.SELF_READ]},
        {"expires_at": expiry + 60},
    ):
        with pytest.raises(Forbidden):
            await bus.ask(CreateKey.model_validate({"name": "more", **more}))
        with pytest.raises(Forbidden):
            await bus.ask(UpdateKey.model_validate({"key_id": parent.id, "name": "more", **more}))
    widened = await bus.ask(UpdateKey(key_id=parent.id, name="itself"))
    assert (widened.scopes, widened.models) == (scopes, ("llama3*",)), "leaving it out widens nothing"


@pytest.mark.parametrize("models", [[], ["llama*"]])
async def test_a_key_of_who_may_use_some_models_makes_keys_without_naming_them(
    ctx: Context, bus: Bus, models: list[str]
) -> None:
    await a_role(ctx.db, "acme", "llamas", ["self:manage"], ["llama3*"])
    ida = await a_person(ctx.db, "acme", "llamas")
    parent = await a_key(bus, ida, models=models)
    ida.acts(key_id=parent.id)
    assert (await bus.ask(CreateKey(name="child"))).models == tuple(models)


async def test_a_key_with_limits_makes_none_that_would_multiply_them(bus: Bus, ada: Person) -> None:
    parent = await a_key(bus, ada, limits=Limits(tokens_per_day=10))
    ada.acts(key_id=parent.id)
    with pytest.raises(Forbidden, match="limits of its own"):
        await bus.ask(CreateKey(name="child", limits=Limits(tokens_per_day=10)))
    with pytest.raises(Forbidden, match="limits of its own"):
        await bus.ask(UpdateKey(key_id=parent.id, name="free"))


async def test_a_change_replaces_all_and_is_told_to_gateways(bus: Bus, ada: Person, left: list[Message]) -> None:
    key = await a_key(bus, ada, scopes=RUN, models=["m"], limits=Limits(concurrent_streams=1))
    assert (key.version, key.limits) == (1, Limits(concurrent_streams=1))
    changed = await bus.ask(UpdateKey(key_id=key.id, name="desk", models=("n",), expected_version=1))
    assert (changed.name, changed.scopes, changed.models) == ("desk", None, ("n",))
    assert (changed.version, await bus.ask(GetKey(key_id=key.id))) == (2, changed)
    await eventually(lambda: IdentityChanged(key_digest=digest_of(key.key)) in left)
    assert (await identity_of(bus, key)).models == (("n",),)


async def test_limits_of_a_key_are_loosened_by_who_manages_the_organization(
    bus: Bus, ada: Person, boss: Person
) -> None:
    key = await a_key(bus, ada)
    few = Limits(requests_per_minute=5, tokens_per_day=100)
    boss.acts()
    await bus.ask(PutLimits(organization_id="acme", scope="key", id=key.id, limits=few))
    ada.acts()
    assert (await bus.ask(UpdateKey(key_id=key.id, name="another"))).limits == few
    for looser in (Limits(), Limits(requests_per_minute=5), few.model_copy(update={"tokens_per_day": 101})):
        with pytest.raises(Forbidden, match="organization:manage"):
            await bus.ask(UpdateKey(key_id=key.id, name="another", limits=looser))
    tighter = Limits(requests_per_minute=5, tokens_per_day=99, concurrent_streams=1)
    assert (await bus.ask(UpdateKey(key_id=key.id, name="another", limits=tighter))).limits == tighter
    boss.acts()
    assert (await bus.ask(UpdateKey(key_id=key.id, name="another"))).limits is None


async def test_a_key_weighs_what_the_admin_says(bus: Bus, ada: Person, boss: Person) -> None:
    key = await a_key(bus, ada, scopes=[*RUN, "self:manage"])
    assert (key.weight, (await identity_of(bus, key)).key_weight) == (1, 1)
    lighter = UpdateKey(key_id=key.id, name="laptop", scopes=key.scopes, weight=0.25)
    with pytest.raises(Forbidden, match="organization:manage"):
        await bus.ask(lighter)
    with pytest.raises(Forbidden, match="organization:manage"):
        await a_key(bus, ada, weight=3)
    boss.acts()
    assert (await bus.ask(lighter)).weight == 0.25
    assert (await identity_of(bus, key)).key_weight == 0.25
    ada.acts(key_id=key.id)
    child = await bus.ask(CreateKey(name="child"))
    assert child.weight == 0.25, "no key makes one that weighs more"


async def test_who_was_quicker_wins(bus: Bus, ada: Person) -> None:
    key = await a_key(bus, ada)
    updates = [bus.ask(UpdateKey(key_id=key.id, name=f"n{n}", expected_version=1)) for n in range(3)]
    answers = await asyncio.gather(*updates, return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in answers) == ["ApiKey", *["PreconditionFailed"] * 2]
    with pytest.raises(PreconditionFailed):
        await bus.ask(RevokeKey(key_id=key.id, expected_version=1))


async def test_a_revoked_key_is_announced_and_refused(bus: Bus, ada: Person, left: list[Message]) -> None:
    key = await a_key(bus, ada)
    assert (await bus.ask(RevokeKey(key_id=key.id))).id == key.id
    await eventually(lambda: IdentityChanged(key_digest=digest_of(key.key)) in left)
    with pytest.raises(Unauthenticated):
        await identity_of(bus, key)
    assert await listed(bus, str(ada.id)) == ()
    for again in (RevokeKey(key_id=key.id), GetKey(key_id=key.id), UpdateKey(key_id=key.id, name="x")):
        with pytest.raises(NotFound, match="key not found"):
            await bus.ask(again)


@pytest.mark.parametrize("key_id", ["", "no uuid", str(uuid4()), "\0"])
async def test_what_is_no_key(bus: Bus, ada: Person, key_id: str) -> None:
    ada.acts()
    for query in (GetKey(key_id=key_id), RevokeKey(key_id=key_id), UpdateKey(key_id=key_id, name="n")):
        with pytest.raises(NotFound, match="key not found"):
            await bus.ask(query)


async def test_keys_of_others_do_not_exist(ctx: Context, bus: Bus, ada: Person) -> None:
    """Neither for another member nor, whatever their role, for who is elsewhere."""
    key = await a_key(bus, ada)
    (await a_person(ctx.db, "acme", "operator")).acts()
    for query in (GetKey(key_id=key.id), RevokeKey(key_id=key.id), UpdateKey(key_id=key.id, name="n")):
        with pytest.raises(NotFound):
            await bus.ask(query)
    for user_id in (str(ada.id), None):
        with pytest.raises(Forbidden, match="user:read"):
            await listed(bus, user_id)
    (await a_person(ctx.db, "globex", "admin")).acts()
    with pytest.raises(NotFound):
        await bus.ask(RevokeKey(key_id=key.id))
    assert await listed(bus, None) == await listed(bus, str(ada.id)) == ()


async def test_admins_see_and_manage_the_keys_of_members(bus: Bus, ada: Person, boss: Person) -> None:
    key = await a_key(bus, ada)
    boss.acts()
    assert [each.id for each in await listed(bus, None)] == [key.id]
    assert (await bus.ask(GetKey(key_id=key.id))).user_id == str(ada.id)
    wish = UpdateKey.model_validate({"key_id": key.id, "name": "less", "scopes": RUN})
    assert (await bus.ask(wish)).scopes == RUN
    await bus.ask(RevokeKey(key_id=key.id))
    with pytest.raises(Unauthenticated):
        await identity_of(bus, key)


async def test_who_manages_users_does_not_manage_who_may_more(ctx: Context, bus: Bus, boss: Person) -> None:
    key = await a_key(bus, boss)
    await a_role(ctx.db, "acme", "desk", ["self:manage", "user:read", "user:manage"])
    (await a_person(ctx.db, "acme", "desk")).acts()
    with pytest.raises(Forbidden, match="you do not have"):
        await bus.ask(RevokeKey(key_id=key.id))


async def test_a_key_works_in_the_organization_it_was_made_in(ctx: Context, bus: Bus, ada: Person) -> None:
    await joins(ctx.db, ada.elsewhere("globex"), "admin")
    here, there = await a_key(bus, ada), await a_key(bus, ada.elsewhere("globex"))
    assert (await identity_of(bus, here)).role == "user"
    assert ((await identity_of(bus, there)).organization_id, (await identity_of(bus, there)).role) == (
        "globex",
        "admin",
    )
    assert [key.id for key in await listed(bus, str(ada.id))] == [there.id]


async def test_a_disabled_user_has_no_callers(ctx: Context, bus: Bus, ada: Person) -> None:
    key = await a_key(bus, ada)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("update users set disabled_at = now() where id = %s", [ada.id])
    with pytest.raises(Unauthenticated):
        await identity_of(bus, key)
    with pytest.raises(Unauthenticated):
        await bus.ask(CreateKey(name="more"))


async def test_a_key_expires(ctx: Context, bus: Bus, ada: Person) -> None:
    key = await a_key(bus, ada, expires_at=time.time() + 3600)
    assert (await identity_of(bus, key)).key_id == key.id
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("update api_keys set expires_at = now()")
    with pytest.raises(Unauthenticated):
        await identity_of(bus, key)


@pytest.mark.parametrize("name", ["", "   ", "x" * 101, "line\nbreak", "zero\0byte"])
async def test_bad_names(bus: Bus, ada: Person, name: str) -> None:
    with pytest.raises(InvalidRequest, match="name"):
        await a_key(bus, ada, name=name)


@pytest.mark.parametrize("expires_at", [0.0, -1.0, 1e300, math.inf])
async def test_bad_expiry(ctx: Context, ada: Person, expires_at: float) -> None:
    ada.acts()
    with pytest.raises(InvalidRequest, match="expires_at"):
        await keys.create(ctx, CreateKey(name="laptop", expires_at=expires_at))


async def test_no_keys_for_nobody(ctx: Context, bus: Bus) -> None:
    for stranger in (Person(uuid4(), "default", ""), Person(uuid4(), "", "")):
        with pytest.raises(Unauthenticated):
            await a_key(bus, stranger)


async def test_a_user_may_have_so_many_keys(ctx: Context, bus: Bus, ada: Person) -> None:
    wanted = [a_key(bus, ada) for _ in range(ctx.settings.max_keys_per_user + 2)]
    answers = await asyncio.gather(*wanted, return_exceptions=True)
    assert [type(answer) for answer in answers].count(Conflict) == 2
    ada.acts()
    first, *_ = await listed(bus, str(ada.id))
    await bus.ask(RevokeKey(key_id=first.id))
    await a_key(bus, ada)


async def test_the_last_use_is_reported_in_batches(ctx: Context, bus: Bus, ada: Person) -> None:
    key = await a_key(bus, ada)
    await identity_of(bus, key)
    assert [each.last_used_at for each in await listed(bus, str(ada.id))] == [None]
    await keys.report_use_now(ctx)
    (used,) = await listed(bus, str(ada.id))
    assert used.last_used_at == pytest.approx(time.time(), abs=5)
    assert (used.version, ctx.used_keys) == (1, {}), "using a key is no change of it"


async def test_using_a_key_is_not_audited(ctx: Context, bus: Bus, ada: Person) -> None:
    key = await a_key(bus, ada)
    await identity_of(bus, key)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("delete from outbox")
    await keys.report_use_now(ctx)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        assert await (await tx.execute("select message from outbox")).fetchall() == []
