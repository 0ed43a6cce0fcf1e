"""API keys: made, listed, changed, revoked. What one may do is checked when it is made and again when it is used."""

import asyncio
import hashlib
import math
import secrets
import time
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

import structlog

from libs.common import outbox, paging
from libs.common.contracts.auth.identity import Identity, IdentityChanged, Limits
from libs.common.contracts.auth.keys import ApiKey, CreatedApiKey, CreateKey, ListKeys, RevokeKey, UpdateKey
from libs.common.contracts.paging import Page
from libs.common.contracts.permissions import Permission
from libs.common.database import EVERY_ORGANIZATION, Transaction
from libs.common.errors import Conflict, Forbidden, InvalidRequest, NotFound, Unauthenticated, Unavailable
from services.auth import callers, limits, rights
from services.auth.context import Context
from services.auth.store import keys as key_store
from services.auth.store.keys import Key

log = structlog.get_logger(__name__)

KEY_PREFIX = "omx_"
SHOWN_CHARACTERS = len(KEY_PREFIX) + 6
REPORT_USE_SECONDS = 60
# Far enough for everybody, and every representation of time can hold it.
LATEST_EXPIRY = datetime(9000, 1, 1, tzinfo=UTC).timestamp()


class Allowed(NamedTuple):
    """What a key may at most; beside it counts what its owner may."""

    scopes: list[str] | None
    models: list[str]
    expires_at: datetime | None


def new_key() -> str:
    """256 random bits: nobody guesses one, so a plain SHA-256 is hash enough."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


async def create(ctx: Context, query: CreateKey) -> CreatedApiKey:
    """For the caller. Raises ``InvalidRequest``, ``Forbidden``, and ``Conflict`` if the caller has too many."""
    caller, name, key = await callers.acting(ctx), rights.checked_name(query.name), new_key()
    owner = UUID(caller.user_id)
    async with ctx.db.transaction() as tx:
        allowed = await _allowed(tx, caller, query)
        if not await key_store.lock_owner(tx, owner):
            raise Unauthenticated
        if await key_store.count_keys(tx, owner) >= ctx.settings.max_keys_per_user:
            raise Conflict(f"a user may have {ctx.settings.max_keys_per_user} keys; revoke one first")
        made = await key_store.insert_key(
            tx,
            caller.organization_id,
            owner,
            name,
            prefix=key[:SHOWN_CHARACTERS],
            digest=digest_of(key),
            scopes=allowed.scopes,
            models=allowed.models,
            expires_at=allowed.expires_at,
            weight=rights.new_weight(caller, caller.key_weight, query.weight, Permission.ORGANIZATION_MANAGE),
        )
        await limits.put_key_limits(tx, caller.organization_id, made, query.limits)
        shown = _shown(await _existing(tx, caller, str(made)))
    return CreatedApiKey(key=key, **shown.model_dump())


async def list_of(ctx: Context, query: ListKeys) -> Page[ApiKey]:
    """Newest first. Raises ``Forbidden`` for keys of others, ``InvalidRequest`` for what is no user id."""
    caller, after = await callers.acting(ctx), paging.decode_newest(query.paging.cursor, UUID)
    if query.user_id != caller.user_id:
        rights.demand_permissions(caller, [Permission.USER_READ])
    owner = None if query.user_id is None else rights.uuid_of(query.user_id, "user")
    async with ctx.db.transaction() as tx:
        rows = await key_store.list_keys(tx, owner, after, query.paging.limit + 1)
    return paging.page(rows, query.paging, _shown, lambda row: (row.created_at.timestamp(), str(row.id)))


async def get(ctx: Context, key_id: str) -> ApiKey:
    caller = await callers.acting(ctx)
    async with ctx.db.transaction() as tx:
        return _shown(await _existing(tx, caller, key_id, Permission.USER_READ))


async def update(ctx: Context, query: UpdateKey) -> ApiKey:
    """Every gateway knows it within moments.

    Raises ``NotFound``, ``InvalidRequest``, ``Forbidden`` and ``PreconditionFailed``.
    """
    caller, name = await callers.acting(ctx), rights.checked_name(query.name)
    async with ctx.db.transaction() as tx:
        key = await _changeable(tx, caller, query.key_id, query.expected_version)
        scopes, models, expires_at = await _allowed(tx, caller, query)
        weight = rights.new_weight(caller, key.weight, query.weight, Permission.ORGANIZATION_MANAGE)
        await key_store.update_key(tx, key.id, name, scopes=scopes, models=models, expires_at=expires_at, weight=weight)
        limits_now = await limits.key_limits(tx, caller.organization_id, key.id)
        limits_then = limits.new_key_limits(caller, limits_now, query.limits)
        if limits_then != limits_now:
            await limits.put_key_limits(tx, caller.organization_id, key.id, limits_then)
        await outbox.stage(tx, IdentityChanged(key_digest=key.digest))
        return _shown(await _existing(tx, caller, query.key_id, Permission.USER_MANAGE))


async def revoke(ctx: Context, query: RevokeKey) -> ApiKey:
    """Every gateway forgets the key as soon as the broker can tell it. Raises as ``update``."""
    caller = await callers.acting(ctx)
    async with ctx.db.transaction() as tx:
        key = await _changeable(tx, caller, query.key_id, query.expected_version)
        await key_store.revoke_key(tx, key.id)
        await outbox.stage(tx, IdentityChanged(key_digest=key.digest))
    return _shown(key)


async def _existing(tx: Transaction, caller: Identity, key_id: str, of_others: Permission | None = None) -> Key:
    """The caller's own, or with this permission anybody's. Raises ``NotFound``."""
    key = await key_store.key_of_id(tx, rights.uuid_of(key_id, "key"))
    if key is None or (str(key.user_id) != caller.user_id and of_others not in caller.permissions):
        raise NotFound("key not found")
    return key


async def _changeable(tx: Transaction, caller: Identity, key_id: str, expected_version: int | None) -> Key:
    """Nobody else changes it until the transaction ends. Not for keys whose owner may do more than the caller."""
    await key_store.lock_key(tx, rights.uuid_of(key_id, "key"))
    key = await _existing(tx, caller, key_id, Permission.USER_MANAGE)
    rights.check_version(key.version, expected_version)
    if str(key.user_id) != caller.user_id:
        await rights.demand_at_least(tx, caller, caller.organization_id, key.role)
    return key


async def _allowed(tx: Transaction, caller: Identity, wish: CreateKey | UpdateKey) -> Allowed:
    """What the wish comes to. A key gives at most what it has. Raises ``InvalidRequest`` and ``Forbidden``."""
    expires_at = _checked_expiry(wish.expires_at)
    rights.demand_permissions(caller, wish.scopes or ())
    scopes = None if wish.scopes is None else sorted(scope.value for scope in wish.scopes)
    models = list(wish.models)
    if caller.key_id is None:
        return Allowed(scopes, models, expires_at)
    own = await _existing(tx, caller, caller.key_id)
    if own.limits is not None:
        raise Forbidden("forbidden: a key with limits of its own makes no other keys, which would multiply them")
    if own.expires_at is not None and expires_at is not None and expires_at > own.expires_at:
        raise Forbidden("forbidden: this would outlive the key that you use")
    if models:
        rights.demand_models(caller, models)
    return Allowed(own.scopes if scopes is None else scopes, models or own.models, expires_at or own.expires_at)


def _checked_expiry(expires_at: float | None) -> datetime | None:
    if expires_at is None:
        return None
    if not math.isfinite(expires_at) or not time.time() < expires_at < LATEST_EXPIRY:
        raise InvalidRequest("expires_at must be in the future")
    return datetime.fromtimestamp(expires_at, UTC)


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
        async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
            await key_store.mark_keys_used(tx, used)
    except Unavailable as error:
        log.warning("could not note which keys were used; will try again", reason=error.message)
        return
    for key_id, at in used.items():
        if ctx.used_keys.get(key_id) == at:
            del ctx.used_keys[key_id]


def _shown(key: Key) -> ApiKey:
    return ApiKey(
        id=str(key.id),
        user_id=str(key.user_id),
        name=key.name,
        prefix=key.prefix,
        scopes=None if key.scopes is None else frozenset(key.scopes),
        models=tuple(key.models),
        limits=None if key.limits is None else Limits.model_validate(key.limits),
        weight=key.weight,
        created_at=key.created_at.timestamp(),
        last_used_at=key.last_used_at.timestamp() if key.last_used_at else None,
        expires_at=key.expires_at.timestamp() if key.expires_at else None,
        version=key.version,
    )
