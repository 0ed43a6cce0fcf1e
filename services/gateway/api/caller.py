"""Reads credentials, for all dialects."""

import base64
import binascii
from collections.abc import Mapping

from libs.common.contracts.auth import Identity
from libs.common.errors import Unauthenticated
from services.gateway.context import Context
from services.gateway.identity import is_ours

ANONYMOUS = "anonymous"


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
    On loopback they may manage models, as Ollama lets everybody who reaches it.
    """
    given = credential(headers)
    if ctx.settings.admits_anonymous and (given is None or not is_ours(given)):
        role = "operator" if ctx.settings.on_loopback else "user"
        return Identity(organization_id=ctx.settings.anonymous_organization, user_id=ANONYMOUS, role=role)
    return await require_caller(ctx, headers)
