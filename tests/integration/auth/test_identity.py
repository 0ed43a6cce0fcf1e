import asyncio
import base64
import math
import time
from uuid import uuid4

import jwt
import pytest
from pydantic import SecretStr

from libs.common.bus.base import Bus
from libs.common.contracts.auth import (
    ISSUER,
    CreatedApiKey,
    CreateKey,
    GetSigningKeys,
    ListKeys,
    Login,
    RevokeKey,
    VerifyKey,
)
from libs.common.errors import Conflict, InvalidRequest, NotFound, Unauthenticated
from services.auth import identities, keys
from services.auth.context import Context
from services.auth.keys import digest_of
from services.auth.signing import open_signer
from services.auth.store import User
from tests.fixtures.buses import eventually
from tests.integration.auth.conftest import EMAIL, PASSWORD, settings


async def a_key(bus: Bus, admin: User, **changes: object) -> CreatedApiKey:
    return await bus.ask(CreateKey.model_validate({"user_id": str(admin.id), "name": "laptop", **changes}))


@pytest.mark.parametrize("email", [EMAIL, EMAIL.lower(), f" {EMAIL.upper()} "])
async def test_login_gives_a_token_that_the_published_key_verifies(bus: Bus, admin: User, email: str) -> None:
    session = await bus.ask(Login(email=email, password=PASSWORD))
    (jwk,) = (await bus.ask(GetSigningKeys())).keys
    assert jwt.get_unverified_header(session.access_token)["kid"] == jwk["kid"]
    claims = jwt.decode(session.access_token, jwt.PyJWK(jwk).key, ["RS256"], issuer=ISSUER)
    assert (claims["sub"], claims["org"]) == (str(admin.id), "default")
    assert (claims["role"], claims["email"]) == ("admin", EMAIL.lower())
    assert claims["exp"] - claims["iat"] == session.expires_in == 900
    assert claims["jti"]


async def test_what_is_published_is_public(bus: Bus) -> None:
    (jwk,) = (await bus.ask(GetSigningKeys())).keys
    assert jwk.keys() == {"kty", "use", "alg", "kid", "n", "e"}


@pytest.mark.parametrize(
    ("email", "password"),
    [(EMAIL, "wrong"), (EMAIL, ""), ("nobody@localhost", PASSWORD), ("", ""), ("no address", PASSWORD), ("a\0@b", "x")],
)
async def test_every_failed_login_reads_the_same(bus: Bus, email: str, password: str) -> None:
    with pytest.raises(Unauthenticated, match=r"^wrong email or password$"):
        await bus.ask(Login(email=email, password=password))


async def test_an_unknown_user_costs_a_hash_too(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[bytes] = []

    def wrong(_password: bytes, hashed: bytes) -> bool:
        checked.append(hashed[:7])
        return False

    monkeypatch.setattr("bcrypt.checkpw", wrong)
    for email in (EMAIL, "nobody@localhost"):
        with pytest.raises(Unauthenticated):
            await identities.log_in(ctx, email, "wrong")
    assert checked == [b"$2b$04$", b"$2b$04$"]


async def test_a_second_start_keeps_the_admin_and_the_signing_key(ctx: Context, bus: Bus) -> None:
    await identities.create_first_admin(ctx)
    again = await open_signer(ctx.db, ctx.settings.sealing_key(), 900)
    assert again.key_id == ctx.signer.key_id
    assert again.private_key.private_numbers() == ctx.signer.private_key.private_numbers()


async def test_another_secret_key_ends_with_one_line(ctx: Context) -> None:
    other = settings(secret_key=SecretStr(base64.b64encode(b"x" * 32).decode()))
    with pytest.raises(SystemExit, match="AUTH_SECRET_KEY"):
        await open_signer(ctx.db, other.sealing_key(), 900)


async def test_a_key_tells_who_calls(ctx: Context, bus: Bus, admin: User) -> None:
    created = await a_key(bus, admin, name="  my laptop ")
    assert created.name == "my laptop"
    assert created.key.startswith(created.prefix)
    identity = await bus.ask(VerifyKey(digest=digest_of(created.key)))
    assert (identity.user_id, identity.key_id, identity.role) == (str(admin.id), created.id, "admin")
    assert (identity.organization_id, identity.email) == ("default", EMAIL.lower())


@pytest.mark.parametrize("digest", ["", "f" * 64, "F" * 64, "'; drop table users", "\0" * 64])
async def test_unknown_digests(bus: Bus, digest: str) -> None:
    with pytest.raises(Unauthenticated):
        await bus.ask(VerifyKey(digest=digest))


async def test_keys_are_listed_without_their_secret(bus: Bus, admin: User) -> None:
    made = [await a_key(bus, admin, name=name) for name in ("first", "second")]
    listed = await bus.ask(ListKeys(user_id=str(admin.id)))
    assert [key.id for key in listed] == [key.id for key in reversed(made)]
    assert not any(key.key in repr(listed) for key in made)


async def test_a_revoked_key_is_announced_and_refused(bus: Bus, admin: User, revoked: list[str]) -> None:
    created = await a_key(bus, admin)
    digest = digest_of(created.key)
    answer = await bus.ask(RevokeKey(user_id=str(admin.id), key_id=created.id))
    assert (answer.id, answer.name) == (created.id, "laptop")
    await eventually(lambda: revoked == [digest])
    with pytest.raises(Unauthenticated):
        await bus.ask(VerifyKey(digest=digest))
    assert await bus.ask(ListKeys(user_id=str(admin.id))) == ()


@pytest.mark.parametrize("key_id", ["", "no uuid", str(uuid4())])
async def test_nobody_revokes_what_is_not_theirs(bus: Bus, admin: User, key_id: str) -> None:
    created = await a_key(bus, admin)
    with pytest.raises(NotFound, match="key not found"):
        await bus.ask(RevokeKey(user_id=str(admin.id), key_id=key_id))
    with pytest.raises(NotFound, match="key not found"):
        await bus.ask(RevokeKey(user_id=str(uuid4()), key_id=created.id))


async def test_a_key_expires(ctx: Context, bus: Bus, admin: User) -> None:
    created = await a_key(bus, admin, expires_at=time.time() + 3600)
    assert (await bus.ask(VerifyKey(digest=digest_of(created.key)))).key_id == created.id
    async with ctx.db.transaction() as tx:
        await tx.execute("update api_keys set expires_at = now()")
    with pytest.raises(Unauthenticated):
        await bus.ask(VerifyKey(digest=digest_of(created.key)))


@pytest.mark.parametrize("name", ["", "   ", "x" * 101, "line\nbreak", "zero\0byte"])
async def test_bad_names(bus: Bus, admin: User, name: str) -> None:
    with pytest.raises(InvalidRequest, match="name"):
        await a_key(bus, admin, name=name)


@pytest.mark.parametrize("expires_at", [0.0, -1.0, 1e300, math.inf])
async def test_bad_expiry(ctx: Context, admin: User, expires_at: float) -> None:
    with pytest.raises(InvalidRequest, match="expires_at"):
        await keys.create(ctx, str(admin.id), "laptop", expires_at)


@pytest.mark.parametrize("user_id", ["", "no uuid", str(uuid4())])
async def test_no_keys_for_nobody(bus: Bus, user_id: str) -> None:
    with pytest.raises(NotFound, match="user not found"):
        await bus.ask(CreateKey(user_id=user_id, name="laptop"))


async def test_a_user_may_have_so_many_keys(ctx: Context, bus: Bus, admin: User) -> None:
    wanted = [a_key(bus, admin) for _ in range(ctx.settings.max_keys_per_user + 2)]
    answers = await asyncio.gather(*wanted, return_exceptions=True)
    assert [type(answer) for answer in answers].count(Conflict) == 2
    (first, *_) = await bus.ask(ListKeys(user_id=str(admin.id)))
    await bus.ask(RevokeKey(user_id=str(admin.id), key_id=first.id))
    await a_key(bus, admin)


async def test_the_last_use_is_reported_in_batches(ctx: Context, bus: Bus, admin: User) -> None:
    created = await a_key(bus, admin)
    await bus.ask(VerifyKey(digest=digest_of(created.key)))
    assert [key.last_used_at for key in await bus.ask(ListKeys(user_id=str(admin.id)))] == [None]
    await keys.report_use_now(ctx)
    (listed,) = await bus.ask(ListKeys(user_id=str(admin.id)))
    assert listed.last_used_at == pytest.approx(time.time(), abs=5)
    assert ctx.used_keys == {}
