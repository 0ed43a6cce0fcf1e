"""Reads credentials, for all dialects."""

import base64
import binascii
import ipaddress
from collections.abc import Mapping
from functools import cache

import msgspec

from libs.common import actor
from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.permissions import Permission
from libs.common.errors import Unauthenticated
from services.gateway.context import Context
from services.gateway.identity import is_ours

ANONYMOUS = "anonymous"
"""The user id and the role of callers without credentials."""

ANONYMOUS_MAY = frozenset({Permission.MODEL_READ, Permission.INFERENCE_RUN})


def credential(headers: Mapping[str, str]) -> str | None:
    """A Bearer token, an x-api-key, or the password of Basic: what the clients we know can send."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer" and value:
        return value
    if key := headers.get("x-api-key", "").strip():
        return key
    if scheme.lower() == "basic" and value:
        return _basic_password(value)
    return None


def _basic_password(value: str) -> str | None:
    try:
        decoded = base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise Unauthenticated from None
    return decoded.partition(":")[2] or None


async def require_caller(ctx: Context, headers: Mapping[str, str]) -> Identity:
    """Raises ``Unauthenticated``."""
    given = credential(headers)
    if given is None:
        raise Unauthenticated
    return await ctx.identities.identify(given)


async def admit_caller(ctx: Context, headers: Mapping[str, str]) -> Identity:
    """As ``require_caller``, but lets callers without credentials in where the settings allow it.

    SDKs insist on some key, so a foreign one counts as none; a key or token of ours must be a good one.
    On loopback they may manage models, as Ollama lets everybody who reaches it; not those whom a proxy on this machine
    brings, wherever they say they come from.
    """
    given, settings = credential(headers), ctx.settings
    if settings.admits_anonymous and (given is None or not is_ours(given)):
        forwarded = "forwarded" in headers or "x-forwarded-for" in headers
        local = settings.on_loopback and not forwarded and _is_loopback(actor.current().ip)
        if local or settings.anonymous_beyond_loopback:
            return _anonymous(settings.anonymous_organization, manages=local)
    return await require_caller(ctx, headers)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


@cache
def _anonymous(organization: str, *, manages: bool) -> Identity:
    permissions = ANONYMOUS_MAY | {Permission.MODEL_MANAGE} if manages else ANONYMOUS_MAY
    return Identity(organization_id=organization, user_id=ANONYMOUS, role=ANONYMOUS, permissions=permissions)


def act_for(caller: Identity) -> None:
    """From here on this task, and every message it sends, says on whose behalf."""
    actor.become(
        msgspec.structs.replace(
            actor.current(),
            organization_id=caller.organization_id,
            user_id=caller.user_id,
            key_id=caller.key_id or "",
            session_id=caller.session_id or "",
        )
    )
