import base64
import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from libs.common.contracts.auth.identity import (
    ISSUER,
    GetSigningKeys,
    Identity,
    IdentityChanged,
    SigningKeys,
    VerifyKey,
    VerifySession,
)
from libs.common.errors import Unauthenticated
from services.auth.signing import AHEAD_SECONDS
from services.gateway.access_tokens import KEYS_SECONDS, AccessTokens
from services.gateway.api.caller import credential
from services.gateway.api.platform.auth import JWKS_KEPT_SECONDS
from tests.fixtures.builders import an_identity
from tests.fixtures.gateway import Gateway, a_gateway

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


KEY_DIGEST = hashlib.sha256(b"omx_a").hexdigest()


def jwk(kid: str = "k1") -> dict[str, str]:
    return {**json.loads(RSAAlgorithm.to_jwk(KEY.public_key())), "key_ops": "verify", "kid": kid}


def token(kid: str = "k1", key: Any = KEY, **claims: Any) -> str:
    defaults = {"iss": ISSUER, "sub": "u1", "org": "o1", "sid": "s1", "exp": int(time.time()) + 60}
    return jwt.encode({**defaults, **claims}, key, "RS256", {"kid": kid})


@pytest.fixture
async def gateway() -> Any:
    async with a_gateway(anonymous=False) as gateway:
        gateway.bus.answers[GetSigningKeys] = lambda _: SigningKeys(keys=(jwk(),))
        gateway.bus.answers[VerifyKey] = lambda query: an_identity(key_id=query.digest[:4])
        gateway.bus.answers[VerifySession] = lambda query: an_identity("admin", session_id=query.session_id)
        yield gateway


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, None),
        ({"authorization": "Bearer omx_1"}, "omx_1"),
        ({"authorization": "bearer   omx_1 "}, "omx_1"),
        ({"authorization": "Bearer "}, None),
        ({"x-api-key": "omx_2"}, "omx_2"),
        ({"authorization": "Bearer omx_1", "x-api-key": "omx_2"}, "omx_1"),
        ({"authorization": basic("me:omx_3")}, "omx_3"),
        ({"authorization": basic("me:")}, None),
        ({"authorization": "c3NoLWVkMjU1:signature"}, None),
    ],
)
def test_where_credentials_are_found(headers: dict[str, str], found: str | None) -> None:
    assert credential(headers) == found


@pytest.mark.parametrize("value", ["!!!", "/w=="])
def test_broken_basic_is_no_caller(value: str) -> None:
    with pytest.raises(Unauthenticated):
        credential({"authorization": f"Basic {value}"})


async def test_a_key_is_verified_once_until_it_is_revoked(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.answer_cache.REFUSAL_SECONDS", 60)
    identities = gateway.ctx.identities
    first, again = await identities.identify("omx_a"), await identities.identify("omx_a")
    assert first == again
    assert gateway.bus.asked[VerifyKey] == 1

    def nobody(_query: VerifyKey) -> Identity:
        raise Unauthenticated

    gateway.bus.answers[VerifyKey] = nobody
    identities.forget(IdentityChanged(key_digest=KEY_DIGEST))
    for _ in range(20):
        with pytest.raises(Unauthenticated):
            await identities.identify("omx_a")
    assert gateway.bus.asked[VerifyKey] == 2, "a bad key does not hammer auth"


async def test_a_token_is_verified_here_and_its_session_asked_for_once(gateway: Gateway) -> None:
    access = token()
    for _ in range(2):
        assert await gateway.ctx.identities.identify(access) == an_identity("admin", session_id="s1")
    await gateway.ctx.identities.identify(token(jti="of the same session"))
    assert (gateway.bus.asked[GetSigningKeys], gateway.bus.asked[VerifySession]) == (1, 1)


async def test_a_token_is_good_at_once_where_the_clock_is_behind(gateway: Gateway) -> None:
    ahead = int(time.time()) + 5
    assert (await gateway.ctx.identities.identify(token(iat=ahead))).session_id == "s1"


async def test_a_good_token_of_an_ended_session(gateway: Gateway) -> None:
    def ended(_query: VerifySession) -> Identity:
        raise Unauthenticated

    gateway.bus.answers[VerifySession] = ended
    with pytest.raises(Unauthenticated):
        await gateway.ctx.identities.identify(token())


@pytest.mark.parametrize(
    ("changed", "asked"),
    [
        (IdentityChanged(key_digest=KEY_DIGEST), (2, 1)),
        (IdentityChanged(session_id="s1"), (1, 2)),
        (IdentityChanged(user_id="u"), (2, 2)),
        (IdentityChanged(organization_id="o"), (2, 2)),
        (IdentityChanged(user_id="somebody else", organization_id="another"), (1, 1)),
        (IdentityChanged(), (1, 1)),
    ],
)
async def test_who_changed_is_asked_for_again(
    gateway: Gateway, changed: IdentityChanged, asked: tuple[int, int]
) -> None:
    callers = ("omx_a", token())
    for caller in callers:
        await gateway.ctx.identities.identify(caller)
    gateway.ctx.identities.forget(changed)
    for caller in callers:
        await gateway.ctx.identities.identify(caller)
    assert (gateway.bus.asked[VerifyKey], gateway.bus.asked[VerifySession]) == asked


@pytest.mark.parametrize("make", [lambda: "omx_a", token], ids=["key", "token"])
async def test_a_remembered_caller_whose_time_is_over(gateway: Gateway, make: Callable[[], str]) -> None:
    known = make()
    over = an_identity(expires_at=time.time())
    gateway.bus.answers[VerifyKey] = gateway.bus.answers[VerifySession] = lambda _: over
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            await gateway.ctx.identities.identify(known)
    assert gateway.bus.asked[VerifyKey] + gateway.bus.asked[VerifySession] == 1


@pytest.mark.parametrize(
    "bad",
    [
        token(exp=int(time.time()) - 1),
        token(iss="somebody"),
        token(sid=None),
        token(key=OTHER_KEY),
        token("unknown"),
        token()[:-4] + "AAAA",
        jwt.encode({"sub": "u", "sid": "s", "iss": ISSUER, "exp": 2**40}, "x" * 32, "HS256", {"kid": "k1"}),
        jwt.encode({"sub": "u", "sid": "s", "iss": ISSUER, "exp": 2**40}, "", "none", {"kid": "k1"}),
        "eyJ.a.b",
        "eyJ" + "a" * 10_000 + "..",
        "omx",
        "ollama",
    ],
)
async def test_bad_tokens(gateway: Gateway, bad: str) -> None:
    with pytest.raises(Unauthenticated):
        await gateway.ctx.identities.identify(bad)


async def test_unknown_key_ids_do_not_hammer_auth(gateway: Gateway) -> None:
    await gateway.ctx.identities.identify(token())
    for number in range(20):
        with pytest.raises(Unauthenticated):
            await gateway.ctx.identities.identify(token(f"unknown-{number}"))
    assert gateway.bus.asked[GetSigningKeys] == 1


async def test_a_key_that_is_published_ahead_is_known_when_it_signs(gateway: Gateway) -> None:
    now = 0.0
    tokens = AccessTokens(gateway.ctx.bus, gateway.ctx.tasks, clock=lambda: now)
    await tokens.session_of(token())
    gateway.bus.answers[GetSigningKeys] = lambda _: SigningKeys(keys=(jwk("k2"), jwk()))
    now = KEYS_SECONDS + 1
    assert await tokens.session_of(token(jti="another")) == "s1"
    gateway.bus.answers[GetSigningKeys] = lambda _: SigningKeys(keys=())
    assert await tokens.session_of(token("k2")) == "s1"
    assert max(KEYS_SECONDS, JWKS_KEPT_SECONDS) < AHEAD_SECONDS, "nobody meets a key for the first time when it signs"


async def test_anonymous_callers_and_foreign_keys() -> None:
    async with a_gateway() as gateway:
        for headers in ({}, {"Authorization": "Bearer ollama"}, {"x-api-key": "sk-123"}):
            async with gateway.client(**headers) as http:
                assert (await http.post("/api/chat", json={"model": "m", "messages": []})).status_code == 200
            caller = gateway.started[-1][0]
            assert (caller.organization_id, caller.user_id, caller.role) == ("default", "anonymous", "anonymous")
            assert caller.permissions == {"model:read", "inference:run", "model:manage"}


@pytest.mark.parametrize(("beyond", "status"), [(False, 401), (True, 200)])
async def test_whom_a_proxy_brings_from_elsewhere_is_not_on_loopback(beyond: bool, status: int) -> None:
    settings = {"trusted_proxies": ("127.0.0.0/8",), "anonymous_beyond_loopback": beyond}
    async with a_gateway(**settings) as gateway, gateway.client() as http:
        chat = {"model": "m", "messages": []}
        assert (await http.post("/api/chat", json=chat)).status_code == 200
        assert "model:manage" in gateway.started[-1][0].permissions
        remote = {"X-Forwarded-For": "192.0.2.1"}
        assert (await http.post("/api/chat", json=chat, headers=remote)).status_code == status
        assert len(gateway.started) == 1 or "model:manage" not in gateway.started[-1][0].permissions


@pytest.mark.parametrize("trusted", [("127.0.0.0/8",), ()])
async def test_nobody_is_on_loopback_because_the_proxy_is(trusted: tuple[str, ...]) -> None:
    """Of two headers that differ none is believed, and of a proxy that is not ours neither."""
    remote = {"X-Forwarded-For": "192.0.2.1", "Forwarded": "for=6.6.6.6"}
    async with a_gateway(trusted_proxies=trusted) as gateway, gateway.client(**remote) as http:
        assert (await http.post("/api/chat", json={"model": "m", "messages": []})).status_code == 401
        assert not gateway.started


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer eyJ.bad.token"}, {"Authorization": "Basic ???"}])
async def test_a_bad_credential_of_ours_is_refused_even_where_none_is_needed(headers: dict[str, str]) -> None:
    async with a_gateway() as gateway, gateway.client(**headers) as http:
        response = await http.post("/api/chat", json={"model": "m"})
        assert (response.status_code, response.json()) == (401, {"error": "unauthorized"})


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({"anonymous": False}, 401),
        ({"anonymous": True, "host": "0.0.0.0"}, 401),
        ({"anonymous": True, "host": "0.0.0.0", "anonymous_beyond_loopback": True}, 200),
        ({"anonymous": True, "host": "::1"}, 200),
    ],
)
async def test_where_anonymous_callers_are_let_in(settings: dict[str, Any], status: int) -> None:
    async with a_gateway(**settings) as gateway, gateway.client() as http:
        assert (await http.get("/api/ps")).status_code == status
        assert (await http.get("/")).text == "Ollama is running"
        assert (await http.get("/api/v1/keys")).status_code == 401, "the platform always needs a caller"
