"""What it costs a warm gateway to know a caller: CPU per verification, in one process, without any I/O."""

import time
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from jwt.algorithms import RSAAlgorithm

from libs.common.contracts.auth.identity import ISSUER, GetSigningKeys, SigningKeys, VerifyKey, VerifySession
from tests.fixtures.builders import an_identity
from tests.fixtures.gateway import Gateway, a_gateway

ROUNDS = 20_000


@dataclass(frozen=True)
class Verifying:
    """Microseconds of CPU."""

    key_us: float
    token_us: float


async def measure_verifying(rounds: int = ROUNDS) -> Verifying:
    async with a_gateway() as gateway:
        key = generate_private_key(public_exponent=65537, key_size=2048)
        jwk: dict[str, Any] = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        public = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "k", "n": jwk["n"], "e": jwk["e"]}
        gateway.bus.answers[GetSigningKeys] = lambda _query: SigningKeys(keys=(public,))
        gateway.bus.answers[VerifyKey] = lambda _query: an_identity()
        gateway.bus.answers[VerifySession] = lambda _query: an_identity()
        claims = {"iss": ISSUER, "sub": "u", "org": "o", "sid": uuid4().hex, "exp": int(time.time()) + 900}
        token = jwt.encode(claims, key, "RS256", {"kid": "k"})
        return Verifying(await _cost(gateway, "omx_" + "a" * 43, rounds), await _cost(gateway, token, rounds))


async def _cost(gateway: Gateway, credential: str, rounds: int) -> float:
    """Raises ``RuntimeError`` if the gateway asked anybody once it was warm."""
    await gateway.ctx.identities.identify(credential)
    asked, began = gateway.bus.asked.total(), time.process_time()
    for _ in range(rounds):
        await gateway.ctx.identities.identify(credential)
    spent = time.process_time() - began
    if gateway.bus.asked.total() != asked:
        raise RuntimeError("a warm gateway asked who a caller is")
    return spent / rounds * 1e6
