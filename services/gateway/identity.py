"""Who calls: answered from memory, by asking auth the first time. Forgets a key the moment it is revoked."""

import hashlib
import time

from libs.common.bus.base import Bus
from libs.common.contracts.auth.identity import Identity, IdentityChanged, SigningKeys, VerifyKey, VerifySession
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
    """By key digest or session id: what auth said of it, until it says something else or the key or session expires."""

    def __init__(self, bus: Bus, tasks: Tasks) -> None:
        self._bus = bus
        self._known: AnswerCache[Identity] = AnswerCache(tasks, era=lambda: bus.connections)
        self._tokens = AccessTokens(bus, tasks)

    async def identify(self, credential: str) -> Identity:
        """Whose API key or access token this is.

        Raises ``Unauthenticated``, and ``Unavailable`` if auth is away and the credential is new to us.
        """
        if credential.startswith(KEY_PREFIX):
            digest = hashlib.sha256(credential.encode()).hexdigest()
            identity = await self._known.get(digest, lambda: self._bus.ask(VerifyKey(digest=digest)))
        elif _is_token(credential):
            session = await self._tokens.session_of(credential)
            identity = await self._known.get(session, lambda: self._bus.ask(VerifySession(session_id=session)))
        else:
            raise Unauthenticated
        if identity.expires_at is not None and identity.expires_at <= time.time():
            raise Unauthenticated
        return identity

    async def signing_keys(self) -> SigningKeys:
        """As auth publishes them. Raises ``Unavailable`` if they are unknown and auth is away."""
        return await self._tokens.published()

    def forget(self, changed: IdentityChanged) -> None:
        self._known.forget(changed.key_digest)
        self._known.forget(changed.session_id)
        if changed.user_id or changed.organization_id:
            # Also those being asked for now: nobody knows yet whose they are.
            self._known.forget_if(
                lambda identity: (
                    identity.user_id == changed.user_id or identity.organization_id == changed.organization_id
                )
            )
