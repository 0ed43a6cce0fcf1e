"""Who calls: answered from memory, by asking auth the first time. Forgets a key the moment it is revoked."""

import hashlib

from libs.common.bus.base import Bus
from libs.common.contracts.auth import Identity, VerifyKey
from libs.common.errors import Unauthenticated
from libs.common.tasks import Tasks
from services.gateway.access_tokens import AccessTokens
from services.gateway.answer_cache import AnswerCache

KEY_PREFIX = "omx_"


def is_ours(credential: str) -> bool:
    """Whether this claims to be an API key or an access token of ours, and so must be a good one."""
    return credential.startswith(KEY_PREFIX) or _is_token(credential)


def _is_token(credential: str) -> bool:
    return credential.startswith("eyJ") and credential.count(".") == 2


class Identities:
    def __init__(self, bus: Bus, tasks: Tasks) -> None:
        self._bus = bus
        self._keys: AnswerCache[Identity] = AnswerCache(tasks)
        self._tokens = AccessTokens(bus, tasks)

    async def identify(self, credential: str) -> Identity:
        """Whose API key or access token this is.

        Raises ``Unauthenticated``, and ``Unavailable`` if auth is away and the credential is new to us.
        """
        if credential.startswith(KEY_PREFIX):
            digest = hashlib.sha256(credential.encode()).hexdigest()
            return await self._keys.get(digest, lambda: self._bus.ask(VerifyKey(digest=digest)))
        if _is_token(credential):
            return await self._tokens.verify(credential)
        raise Unauthenticated

    def forget(self, digest: str) -> None:
        self._keys.forget(digest)
