"""API keys: made, listed, revoked, and recognised by their digest."""

import asyncio
import hashlib
import math
import re
import secrets
import time
from datetime import UTC, datetime
from uuid import UUID

import structlog

from libs.common.contracts.auth import ApiKey, CreatedApiKey, Identity, KeyRevoked
from libs.common.errors import Conflict, InvalidRequest, NotFound, Unauthenticated, Unavailable
from services.auth import store
from services.auth.context import Context

log = structlog.get_logger(__name__)

KEY_PREFIX = "omx_"
SHOWN_CHARACTERS = len(KEY_PREFIX) + 6
MAX_NAME_LENGTH = 100
REPORT_USE_SECONDS = 60
# Far enough for everybody, and every representation of time can hold it.
LATEST_EXPIRY = datetime(9000, 1, 1, tzinfo=UTC).timestamp()
DIGEST = re.compile(r"[0-9a-f]{64}")


def new_key() -> str:
    """256 random bits: nobody guesses one, so a plain SHA-256 is hash enough."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


async def create(ctx: Context, user_id: str, name: str, expires_at: float | None) -> CreatedApiKey:
    """Raises ``InvalidRequest``, ``NotFound`` for an unknown user, ``Conflict`` if the user has too many."""
    owner, label, expiry = _uuid(user_id, "user"), _valid_name(name), _valid_expiry(expires_at)
    key = new_key()
    async with ctx.db.transaction() as tx:
        if not await store.lock_user(tx, owner):
            raise NotFound("user not found")
        if await store.count_keys(tx, owner) >= ctx.settings.max_keys_per_user:
            raise Conflict(f"a user may have {ctx.settings.max_keys_per_user} keys; revoke one first")
        shown = key[:SHOWN_CHARACTERS]
        row = await store.insert_key(tx, owner, label, prefix=shown, digest=digest_of(key), expires_at=expiry)
    return CreatedApiKey(key=key, **_shown(row).model_dump())


async def list_of(ctx: Context, user_id: str) -> tuple[ApiKey, ...]:
    """Newest first."""
    owner = _uuid(user_id, "user")
    async with ctx.db.transaction() as tx:
        return tuple(_shown(key) for key in await store.keys_of(tx, owner))


async def revoke(ctx: Context, user_id: str, key_id: str) -> ApiKey:
    """Raises ``NotFound``, or ``Unavailable`` if the event could not be published: then call again.

    Revoking twice announces twice, so a caller that tries again until it succeeds loses no event. If nobody does,
    the gateways' caches forget the key when its time there is over.
    """
    owner, identifier = _uuid(user_id, "user"), _uuid(key_id, "key")
    async with ctx.db.transaction() as tx:
        key = await store.revoke_key(tx, owner, identifier)
    if key is None:
        raise NotFound("key not found")
    await ctx.bus.publish(KeyRevoked(digest=key.digest))
    return _shown(key)


async def identify(ctx: Context, digest: str) -> Identity:
    """Raises ``Unauthenticated``.

    The lookup's time may tell how much of a digest is right; that helps nobody to find a key that has it.
    """
    if not DIGEST.fullmatch(digest):
        raise Unauthenticated
    async with ctx.db.transaction() as tx:
        owner = await store.owner_of_key(tx, digest)
    if owner is None:
        raise Unauthenticated
    ctx.used_keys[owner.key_id] = time.time()
    return Identity(
        organization_id=owner.organization_id,
        user_id=str(owner.id),
        key_id=str(owner.key_id),
        email=owner.email,
        role=owner.role,
    )


async def report_use(ctx: Context) -> None:
    """Background loop: one statement a minute for all keys, so that no request waits for it."""
    while True:
        await asyncio.sleep(REPORT_USE_SECONDS)
        await report_use_now(ctx)


async def report_use_now(ctx: Context) -> None:
    used = dict(ctx.used_keys)
    if not used:
        return
    try:
        async with ctx.db.transaction() as tx:
            await store.mark_keys_used(tx, used)
    except Unavailable as error:
        log.warning("could not note which keys were used; will try again", reason=error.message)
        return
    for key_id, at in used.items():
        if ctx.used_keys.get(key_id) == at:
            del ctx.used_keys[key_id]


def _valid_name(name: str) -> str:
    label = name.strip()
    if not 1 <= len(label) <= MAX_NAME_LENGTH or not label.isprintable():
        raise InvalidRequest(f"name must have 1 to {MAX_NAME_LENGTH} printable characters")
    return label


def _valid_expiry(expires_at: float | None) -> datetime | None:
    if expires_at is None:
        return None
    if not math.isfinite(expires_at) or not time.time() < expires_at < LATEST_EXPIRY:
        raise InvalidRequest("expires_at must be in the future")
    return datetime.fromtimestamp(expires_at, UTC)


def _uuid(text: str, what: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise NotFound(f"{what} not found") from None


def _shown(key: store.Key) -> ApiKey:
    return ApiKey(
        id=str(key.id),
        name=key.name,
        prefix=key.prefix,
        created_at=key.created_at.timestamp(),
        last_used_at=key.last_used_at.timestamp() if key.last_used_at else None,
        expires_at=key.expires_at.timestamp() if key.expires_at else None,
    )
