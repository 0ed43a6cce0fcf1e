"""Access tokens: RS256 JWTs, signed with keys that all replicas share through the database.

A new key is published before it signs, so that whoever verifies tokens knows it by then; an old one stays published
until the last token it signed has expired. Nobody has to log in again for it.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

import jwt
import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from jwt.algorithms import RSAAlgorithm

from libs.common.contracts.auth.identity import ISSUER
from libs.common.database import Database
from libs.common.sealing import CannotOpenError, Ring
from services.auth.store import signing as signing_store
from services.auth.store.signing import PublishedKey, SigningKey

log = structlog.get_logger(__name__)

AHEAD_SECONDS: Final = 600.0
"""Gateways ask for the keys every five minutes, and our JWKS may be kept as long."""

LONGEST_TOKEN_SECONDS: Final = 86_400.0
DAY_SECONDS: Final = 86_400.0


@dataclass(frozen=True)
class _Key:
    """``published_at``: by this process's clock."""

    id: str
    private_key: RSAPrivateKey
    published_at: float


class Signer:
    """Knows the private keys, in memory only. All replicas change to a new key at the same moment."""

    def __init__(self, db: Database, sealing: Ring, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._sealing = sealing
        self._clock = clock
        self._keys: list[_Key] = []

    @classmethod
    async def open(cls, db: Database, sealing: Ring, key_days: int) -> "Signer":
        """Raises ``SystemExit`` if the keys were sealed under another AUTH_SECRET_KEY."""
        signer = cls(db, sealing)
        try:
            await signer.refresh(key_days)
        except CannotOpenError:
            raise SystemExit("AUTH_SECRET_KEY is not the one the database's signing keys were sealed with") from None
        return signer

    @property
    def key_id(self) -> str:
        """Of the key that signs now."""
        return self._current().id

    async def refresh(self, key_days: int) -> None:
        """Learns what other replicas did; makes a key if the newest is too old; deletes those of no more use."""
        published = await self._published()
        if not published or published[0].age_seconds >= key_days * DAY_SECONDS:
            candidate = await asyncio.to_thread(_generate, self._sealing)
            async with self._db.transaction() as tx:
                if await signing_store.insert_signing_key(tx, candidate, key_days * DAY_SECONDS):
                    log.info("made a key to sign access tokens with", key_id=candidate.id)
            published = await self._published()
        self._keys = [await self._known(key) for key in published]
        current = next(key for key in published if key.id == self.key_id)
        if current.age_seconds > AHEAD_SECONDS + LONGEST_TOKEN_SECONDS:
            async with self._db.transaction() as tx:
                await signing_store.delete_signing_keys(
                    tx, [key.id for key in published[published.index(current) + 1 :]]
                )

    async def access_token(self, organization_id: str, user_id: UUID, session_id: UUID, seconds: int) -> str:
        now, key = int(time.time()), self._current()
        claims = {
            "iss": ISSUER,
            "sub": str(user_id),
            "org": organization_id,
            "sid": str(session_id),
            "iat": now,
            "exp": now + seconds,
            "jti": uuid4().hex,
        }
        return await asyncio.to_thread(jwt.encode, claims, key.private_key, "RS256", {"kid": key.id})

    def _current(self) -> _Key:
        """The newest that everybody knows by now; the oldest while nobody can know any."""
        ripe = self._clock() - AHEAD_SECONDS
        return next((key for key in self._keys if key.published_at <= ripe), self._keys[-1])

    async def _published(self) -> list[PublishedKey]:
        async with self._db.transaction() as tx:
            return await signing_store.signing_keys(tx)

    async def _known(self, published: PublishedKey) -> _Key:
        """Unsealed the first time: to check an RSA key takes a while."""
        known = next((key for key in self._keys if key.id == published.id), None)
        if known is not None:
            return known
        private_key = await asyncio.to_thread(_open, published, self._sealing)
        return _Key(published.id, private_key, self._clock() - published.age_seconds)


def _generate(sealing: Ring) -> SigningKey:
    key_id = secrets.token_hex(8)
    private_key = generate_private_key(public_exponent=65537, key_size=2048)
    der = private_key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return SigningKey(key_id, sealing.seal(der, signing_store.place_of(key_id)), _public_jwk(key_id, private_key))


def _open(key: SigningKey, sealing: Ring) -> RSAPrivateKey:
    der = sealing.open(key.sealed_private_key, signing_store.place_of(key.id))
    private_key = serialization.load_der_private_key(der, None)
    assert isinstance(private_key, RSAPrivateKey)
    return private_key


def _public_jwk(key_id: str, private_key: RSAPrivateKey) -> dict[str, str]:
    parameters: dict[str, Any] = json.loads(RSAAlgorithm.to_jwk(private_key.public_key()))
    return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": key_id, "n": parameters["n"], "e": parameters["e"]}
