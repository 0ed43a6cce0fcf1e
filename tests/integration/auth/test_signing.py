"""Keys that sign access tokens, on a real database: replaced without anybody logging in again."""

import asyncio
import time
from uuid import uuid4

import jwt

from libs.common.bus.base import Bus
from libs.common.contracts.auth.identity import ISSUER, GetSigningKeys
from services.auth.context import Context
from services.auth.signing import AHEAD_SECONDS, DAY_SECONDS, LONGEST_TOKEN_SECONDS, Signer
from tests.integration.auth.logins import log_in

KEY_DAYS = 30


async def time_passes(ctx: Context, seconds: float) -> None:
    async with ctx.db.transaction() as tx:
        await tx.execute("update signing_keys set created_at = created_at - make_interval(secs => %s)", [seconds])


async def replica(ctx: Context) -> Signer:
    """Another process of auth, which has just started."""
    return await Signer.open(ctx.db, ctx.sealing, KEY_DAYS)


async def published(bus: Bus) -> dict[str, dict[str, str]]:
    return {key["kid"]: key for key in (await bus.ask(GetSigningKeys())).keys}


async def is_good(bus: Bus, token: str) -> bool:
    kid = jwt.get_unverified_header(token)["kid"]
    jwk = (await published(bus)).get(kid)
    return jwk is not None and bool(jwt.decode(token, jwt.PyJWK(jwk).key, ["RS256"], issuer=ISSUER))


async def test_a_young_key_stays(ctx: Context, bus: Bus) -> None:
    before = ctx.signer.key_id
    await time_passes(ctx, (KEY_DAYS - 1) * DAY_SECONDS)
    await ctx.signer.refresh(KEY_DAYS)
    assert (ctx.signer.key_id, list(await published(bus))) == (before, [before])


async def test_a_new_key_is_published_before_it_signs(ctx: Context, bus: Bus) -> None:
    old = ctx.signer.key_id
    await time_passes(ctx, KEY_DAYS * DAY_SECONDS)
    await ctx.signer.refresh(KEY_DAYS)
    new, also_old = await published(bus)
    assert also_old == old == ctx.signer.key_id == (await replica(ctx)).key_id
    await time_passes(ctx, AHEAD_SECONDS)
    assert (await replica(ctx)).key_id == new


async def test_who_knew_of_a_key_before_signs_with_it_when_its_time_has_come(ctx: Context) -> None:
    now = time.monotonic()
    signer = Signer(ctx.db, ctx.sealing, clock=lambda: now)
    await time_passes(ctx, KEY_DAYS * DAY_SECONDS)
    await signer.refresh(KEY_DAYS)
    old = signer.key_id
    now += AHEAD_SECONDS + 1
    assert signer.key_id != old


async def test_tokens_of_before_and_after_are_good(ctx: Context, bus: Bus) -> None:
    before = (await log_in(bus)).access_token
    await time_passes(ctx, KEY_DAYS * DAY_SECONDS)
    await ctx.signer.refresh(KEY_DAYS)
    await time_passes(ctx, AHEAD_SECONDS + LONGEST_TOKEN_SECONDS - 60)
    signer = await replica(ctx)
    after = await signer.access_token("default", uuid4(), uuid4(), 900)
    assert jwt.get_unverified_header(before)["kid"] != jwt.get_unverified_header(after)["kid"]
    assert await is_good(bus, before)
    assert await is_good(bus, after)


async def test_a_key_is_deleted_when_its_last_token_has_expired(ctx: Context, bus: Bus) -> None:
    await time_passes(ctx, KEY_DAYS * DAY_SECONDS)
    await ctx.signer.refresh(KEY_DAYS)
    new, _old = await published(bus)
    await time_passes(ctx, AHEAD_SECONDS + LONGEST_TOKEN_SECONDS + 60)
    await replica(ctx)
    assert list(await published(bus)) == [new]


async def test_replicas_make_one_key_together(ctx: Context, bus: Bus) -> None:
    await time_passes(ctx, KEY_DAYS * DAY_SECONDS)
    signers = await asyncio.gather(*(replica(ctx) for _ in range(3)))
    assert len(await published(bus)) == 2
    assert len({signer.key_id for signer in signers}) == 1


async def test_private_keys_are_sealed(ctx: Context) -> None:
    async with ctx.db.transaction() as tx:
        ((sealed,),) = await (await tx.execute("select sealed_private_key from signing_keys")).fetchall()
    assert bytes(sealed).startswith(ctx.sealing.mark)
