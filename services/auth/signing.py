"""Access tokens: RS256 JWTs, signed with a key that all replicas share through the database."""

import asyncio
import json
import secrets
import time
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import jwt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from jwt.algorithms import RSAAlgorithm

from libs.common.contracts.auth import ISSUER, Session
from libs.common.database import Database
from services.auth import store
from services.auth.store import SigningKey, User

NONCE_BYTES = 12


@dataclass(frozen=True)
class Signer:
    """Signs with one private key, held in memory only."""

    key_id: str
    private_key: RSAPrivateKey
    token_seconds: int

    async def session(self, user: User) -> Session:
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": str(user.id),
            "org": user.organization_id,
            "role": user.role,
            "email": user.email,
            "iat": now,
            "exp": now + self.token_seconds,
            "jti": uuid4().hex,
        }
        token = await asyncio.to_thread(jwt.encode, claims, self.private_key, "RS256", {"kid": self.key_id})
        return Session(access_token=token, expires_in=self.token_seconds)


async def open_signer(db: Database, sealing_key: bytes, token_seconds: int) -> Signer:
    """With the newest key of the database; the first replica that finds none makes it.

    Raises ``SystemExit`` if the key was sealed under another AUTH_SECRET_KEY.
    """
    async with db.transaction() as tx:
        key = await store.newest_signing_key(tx)
    if key is None:
        candidate = await asyncio.to_thread(_generate, sealing_key)
        async with db.transaction() as tx:
            key = await store.insert_first_signing_key(tx, candidate)
    try:
        private_key = _unseal(key, sealing_key)
    except InvalidTag:
        raise SystemExit("AUTH_SECRET_KEY is not the one the database's signing key was sealed with") from None
    return Signer(key.id, private_key, token_seconds)


def _generate(sealing_key: bytes) -> SigningKey:
    key_id = secrets.token_hex(8)
    private_key = generate_private_key(public_exponent=65537, key_size=2048)
    der = private_key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    nonce = secrets.token_bytes(NONCE_BYTES)
    sealed = nonce + AESGCM(sealing_key).encrypt(nonce, der, key_id.encode())
    return SigningKey(key_id, sealed, _public_jwk(key_id, private_key))


def _unseal(key: SigningKey, sealing_key: bytes) -> RSAPrivateKey:
    nonce, sealed = key.sealed_private_key[:NONCE_BYTES], key.sealed_private_key[NONCE_BYTES:]
    private_key = serialization.load_der_private_key(AESGCM(sealing_key).decrypt(nonce, sealed, key.id.encode()), None)
    assert isinstance(private_key, RSAPrivateKey)
    return private_key


def _public_jwk(key_id: str, private_key: RSAPrivateKey) -> dict[str, str]:
    parameters: dict[str, Any] = json.loads(RSAAlgorithm.to_jwk(private_key.public_key()))
    return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": key_id, "n": parameters["n"], "e": parameters["e"]}
