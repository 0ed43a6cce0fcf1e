import base64
import hashlib
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from libs.common.contracts.auth import ISSUER, GetSigningKeys, Identity, SigningKeys, VerifyKey
from libs.common.errors import Unauthenticated
from services.gateway.api.caller import credential
from tests.fixtures.gateway import Gateway, a_gateway

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def jwk(kid: str = "k1") -> dict[str, str]:
    return {**json.loads(RSAAlgorithm.to_jwk(KEY.public_key())), "key_ops": "verify", "kid": kid}


def token(kid: str = "k1", key: Any = KEY, **claims: Any) -> str:
    defaults = {"iss": ISSUER, "sub": "u1", "org": "o1", "role": "admin", "exp": int(time.time()) + 60}
    return jwt.encode({**defaults, **claims}, key, "RS256", {"kid": kid})


@pytest.fixture
async def gateway() -> Any:
    async with a_gateway(anonymous=False) as gateway:
        gateway.bus.answers[GetSigningKeys] = lambda _: SigningKeys(keys=(jwk(),))
        gateway.bus.answers[VerifyKey] = lambda query: Identity(
            organization_id="o", user_id="u", key_id=query.digest[:4]
        )
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


async def test_a_key_is_verified_once_until_it_is_revoked(gateway: Gateway) -> None:
    identities = gateway.ctx.identities
    first, again = await identities.identify("omx_a"), await identities.identify("omx_a")
    assert first == again
    assert gateway.bus.asked[VerifyKey] == 1

    def nobody(_query: VerifyKey) -> Identity:
        raise Unauthenticated

    gateway.bus.answers[VerifyKey] = nobody
    identities.forget(hashlib.sha256(b"omx_a").hexdigest())
    for _ in range(20):
        with pytest.raises(Unauthenticated):
            await identities.identify("omx_a")
    assert gateway.bus.asked[VerifyKey] == 2, "a bad key does not hammer auth"


async def test_a_token_is_verified_here_and_then_remembered(gateway: Gateway) -> None:
    access = token()
    for _ in range(2):
        identity = await gateway.ctx.identities.identify(access)
        assert (identity.organization_id, identity.user_id, identity.role) == ("o1", "u1", "admin")
    assert gateway.bus.asked[GetSigningKeys] == 1


@pytest.mark.parametrize(
    "bad",
    [
        token(exp=int(time.time()) - 1),
        token(iss="somebody"),
        token(org=None),
        token(key=OTHER_KEY),
        token("unknown"),
        token()[:-4] + "AAAA",
        jwt.encode({"sub": "u", "org": "o", "iss": ISSUER, "exp": 2**40}, "x" * 32, "HS256", {"kid": "k1"}),
        jwt.encode({"sub": "u", "org": "o", "iss": ISSUER, "exp": 2**40}, "", "none", {"kid": "k1"}),
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


async def test_anonymous_callers_and_foreign_keys() -> None:
    async with a_gateway() as gateway:
        for headers in ({}, {"Authorization": "Bearer ollama"}, {"x-api-key": "sk-123"}):
            async with gateway.client(**headers) as http:
                assert (await http.post("/api/chat", json={"model": "m", "messages": []})).status_code == 200
            assert gateway.started[-1][0] == Identity(organization_id="default", user_id="anonymous", role="operator")


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
