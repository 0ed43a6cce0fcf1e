"""Access tokens (RS256 JWT): verified once against auth's public keys, then remembered until they expire."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jwt
from cachetools import TLRUCache

from libs.common.bus.base import Bus
from libs.common.contracts.auth.identity import ISSUER, GetSigningKeys, SigningKeys
from libs.common.errors import Unauthenticated
from libs.common.tasks import Tasks
from services.gateway.answer_cache import AnswerCache

LONGEST_TOKEN = 8192
KEYS_SECONDS = 300.0
"""Public keys are asked for again after this long, so that a withdrawn one is not trusted for ever."""

ASK_AGAIN_SECONDS = 3.0
"""A token that names an unknown key makes us ask at most this often."""

OPTIONS: jwt.types.Options = {"require": ["exp", "iss", "sub", "sid"], "verify_iat": False}
"""When it was issued, by auth's clock, may be in our future: clocks differ, and a new token is to work at once."""


@dataclass(frozen=True)
class _Verified:
    session_id: str
    expires_at: float


def _expiry(_digest: str, verified: _Verified, _now: float) -> float:
    return verified.expires_at


class AccessTokens:
    def __init__(self, bus: Bus, tasks: Tasks, clock: Callable[[], float] = time.monotonic) -> None:
        self._bus = bus
        self._clock = clock
        self._answers: AnswerCache[SigningKeys] = AnswerCache(tasks, fresh_seconds=ASK_AGAIN_SECONDS, clock=clock)
        self._keys: dict[str, Any] = {}
        self._keys_until = 0.0
        self._verified: TLRUCache[str, _Verified] = TLRUCache(maxsize=10_000, ttu=_expiry, timer=time.time)

    async def session_of(self, token: str) -> str:
        """The id of the session that this good token belongs to.

        Raises ``Unauthenticated``, and ``Unavailable`` if the keys are unknown and auth is away.
        """
        if len(token) > LONGEST_TOKEN:
            raise Unauthenticated
        digest = hashlib.sha256(token.encode()).hexdigest()
        verified = self._verified.get(digest)
        if verified is None:
            verified = self._verified[digest] = await self._check(token)
        return verified.session_id

    async def published(self) -> SigningKeys:
        """Raises ``Unavailable`` if they are unknown and auth is away."""
        return await self._answers.get("", lambda: self._bus.ask(GetSigningKeys()))

    async def _check(self, token: str) -> _Verified:
        try:
            key = await self._key(jwt.get_unverified_header(token).get("kid"))
            claims = jwt.decode(token, key, algorithms=["RS256"], issuer=ISSUER, options=OPTIONS)
        except jwt.PyJWTError as error:
            raise Unauthenticated from error
        return _Verified(str(claims["sid"]), float(claims["exp"]))

    async def _key(self, kid: str | None) -> Any:
        """The public key of this id, in the form PyJWT wants."""
        if kid is None:
            raise Unauthenticated
        if kid not in self._keys or self._clock() > self._keys_until:
            answer = await self.published()
            self._keys = {key["kid"]: jwt.PyJWK(key).key for key in answer.keys}
            self._keys_until = self._clock() + KEYS_SECONDS
        if kid not in self._keys:
            raise Unauthenticated
        return self._keys[kid]
