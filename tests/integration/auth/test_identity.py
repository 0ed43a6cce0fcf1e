import base64
import time
from uuid import uuid4

import jwt
import pytest
from psycopg import sql
from pydantic import SecretStr

from libs.common.bus.base import Bus
from libs.common.contracts.auth.identity import ISSUER, GetSigningKeys, VerifyKey, VerifySession
from libs.common.contracts.auth.keys import CreatedApiKey, CreateKey
from libs.common.contracts.auth.sessions import Login
from libs.common.contracts.permissions import Permission
from libs.common.database import EVERY_ORGANIZATION
from libs.common.errors import Unauthenticated
from services.auth import identities
from services.auth.context import Context
from services.auth.keys import digest_of
from services.auth.signing import Signer
from services.auth.store.users import User
from tests.integration.auth.conftest import EMAIL, PASSWORD, act_for, settings


async def a_key(bus: Bus, admin: User, **changes: object) -> CreatedApiKey:
    """Made by the admin, for whom this task works from here on."""
    act_for(admin)
    return await bus.ask(CreateKey.model_validate({"name": "laptop", **changes}))


@pytest.mark.parametrize("email", [EMAIL, EMAIL.lower(), f" {EMAIL.upper()} "])
async def test_login_gives_a_token_that_the_published_key_verifies(bus: Bus, admin: User, email: str) -> None:
    session = await bus.ask(Login(email=email, password=PASSWORD))
    (jwk,) = (await bus.ask(GetSigningKeys())).keys
    assert jwt.get_unverified_header(session.access_token)["kid"] == jwk["kid"]
    claims = jwt.decode(session.access_token, jwt.PyJWK(jwk).key, ["RS256"], issuer=ISSUER)
    assert (claims["sub"], claims["org"]) == (str(admin.id), "default")
    assert claims["exp"] - claims["iat"] == session.expires_in == 900
    assert claims["jti"]
    identity = await bus.ask(VerifySession(session_id=claims["sid"]))
    assert (identity.user_id, identity.organization_id, identity.role) == (str(admin.id), "default", "admin")
    assert (identity.email, identity.session_id, identity.key_id) == (EMAIL.lower(), claims["sid"], None)
    assert identity.permissions == set(Permission)
    assert identity.expires_at == pytest.approx(time.time() + 30 * 86400, abs=5), "the session's, not the token's"


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
            await identities.log_in(ctx, Login(email=email, password="wrong"))
    assert checked == [b"$2b$04$", b"$2b$04$"]


async def test_a_second_start_keeps_the_admin_and_the_signing_key(ctx: Context, bus: Bus) -> None:
    await identities.create_first_admin(ctx)
    again = await Signer.open(ctx.db, ctx.sealing, ctx.settings.signing_key_days)
    assert again.key_id == ctx.signer.key_id


async def test_another_secret_key_ends_with_one_line(ctx: Context) -> None:
    other = settings(secret_key=SecretStr(base64.b64encode(b"x" * 32).decode()))
    with pytest.raises(SystemExit, match="AUTH_SECRET_KEY"):
        await Signer.open(ctx.db, other.sealing(), 30)


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


@pytest.mark.parametrize("session_id", ["", "no uuid", str(uuid4()), "\0"])
async def test_unknown_sessions(bus: Bus, session_id: str) -> None:
    with pytest.raises(Unauthenticated):
        await bus.ask(VerifySession(session_id=session_id))


@pytest.mark.parametrize("column", ["ended_at", "expires_at"])
async def test_a_session_ends(ctx: Context, bus: Bus, column: str) -> None:
    session = await bus.ask(Login(email=EMAIL, password=PASSWORD))
    claims = jwt.decode(session.access_token, options={"verify_signature": False})
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute(sql.SQL("update user_sessions set {} = now()").format(sql.Identifier(column)))
    with pytest.raises(Unauthenticated):
        await bus.ask(VerifySession(session_id=claims["sid"]))
