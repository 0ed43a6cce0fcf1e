"""Limits: who set them, and which count for a caller. What is left of them is in Redis: ``libs/common/limits``."""

from uuid import UUID

from psycopg.errors import ForeignKeyViolation

from libs.common import outbox, paging
from libs.common.contracts.auth.identity import AppliedLimits, Identity, IdentityChanged, Limits
from libs.common.contracts.auth.limits import DeleteLimits, GetLimits, ListLimits, PutLimits, Scope, SetLimits
from libs.common.contracts.paging import Page
from libs.common.contracts.permissions import Permission
from libs.common.database import Transaction
from libs.common.errors import Conflict, Forbidden, NotFound, PreconditionFailed
from services.auth.context import Context
from services.auth.store import limits as limit_store
from services.auth.store.limits import LimitsRow

NO_LIMITS = Limits()

MOST_MODEL_LIMITS = 100
"""Patterns of one organization: each of its callers carries them all."""


async def applied(
    tx: Transaction, organization_id: str, user_id: UUID | str | None, key_id: UUID | str | None
) -> tuple[AppliedLimits, ...]:
    """All limits that count for a caller, for its ``Identity``."""
    rows = await limit_store.limits_on(
        tx, organization_id, str(user_id) if user_id else None, str(key_id) if key_id else None
    )
    return tuple(_applied(organization_id, row) for row in rows)


async def put_key_limits(tx: Transaction, organization_id: str, key_id: UUID | str, limits: Limits | None) -> None:
    """Sets, replaces, or with none removes the limits of a key of this organization.

    Whoever calls it tells the gateways (``IdentityChanged``) of a key that exists already.
    """
    if limits is None or limits == NO_LIMITS:
        await limit_store.delete_limits(tx, organization_id, "key", str(key_id))
    else:
        await limit_store.put_limits(tx, organization_id, "key", str(key_id), limits)


def new_key_limits(caller: Identity, now: Limits | None, wished: Limits | None) -> Limits | None:
    """Of a key that exists. Who manages the organization may have set them: others keep or tighten them.

    Raises ``Forbidden``.
    """
    if Permission.ORGANIZATION_MANAGE in caller.permissions:
        return wished
    if wished is None:
        return now
    if now is not None and not _is_within(wished, now):
        raise Forbidden("forbidden: looser limits of a key take the permission organization:manage")
    return wished


def _is_within(narrow: Limits, wide: Limits) -> bool:
    pairs = [(getattr(narrow, name), limit) for name, limit in wide if limit is not None]
    return all(wished is not None and wished <= limit for wished, limit in pairs)


async def key_limits(tx: Transaction, organization_id: str, key_id: UUID | str) -> Limits | None:
    row = await limit_store.limits_of(tx, organization_id, "key", str(key_id))
    return _limits(row) if row else None


async def list_of(ctx: Context, query: ListLimits) -> Page[SetLimits]:
    after = paging.decode(query.page.cursor, str, str) or ("", "")
    async with ctx.db.transaction(query.organization_id) as tx:
        rows = await limit_store.list_limits(
            tx, query.organization_id, (str(after[0]), str(after[1])), query.page.limit + 1
        )
    return paging.page(rows, query.page, _shown, lambda row: (row.scope, row.id))


async def get(ctx: Context, query: GetLimits) -> SetLimits:
    """Raises ``NotFound``."""
    async with ctx.db.transaction(query.organization_id) as tx:
        return _shown(await _existing(tx, query))


async def put(ctx: Context, query: PutLimits) -> SetLimits:
    """Raises ``NotFound``, ``PreconditionFailed`` and ``Conflict``. Every gateway knows it within moments."""
    organization, identifier = query.organization_id, _identifier(query.scope, query.id)
    try:
        async with ctx.db.transaction(organization) as tx:
            existing = await limit_store.limits_of(tx, organization, query.scope, identifier)
            if query.expected_version is not None:
                _check_version(existing, query.expected_version)
            if existing is None and query.scope == "model":
                await _check_number(tx, organization)
            row = await limit_store.put_limits(tx, organization, query.scope, identifier, query.limits)
            await _tell_gateways(tx, organization, query.scope, identifier)
    except ForeignKeyViolation:
        raise NotFound(f"{query.scope} not found") from None
    return _shown(row)


async def delete(ctx: Context, query: DeleteLimits) -> None:
    """Raises ``NotFound`` and ``PreconditionFailed``."""
    async with ctx.db.transaction(query.organization_id) as tx:
        existing = await _existing(tx, query)
        if query.expected_version is not None:
            _check_version(existing, query.expected_version)
        await limit_store.delete_limits(tx, query.organization_id, existing.scope, existing.id)
        await _tell_gateways(tx, query.organization_id, query.scope, existing.id)


async def _existing(tx: Transaction, query: GetLimits | DeleteLimits) -> LimitsRow:
    identifier = _identifier(query.scope, query.id)
    row = await limit_store.limits_of(tx, query.organization_id, query.scope, identifier)
    if row is None:
        raise NotFound("no limits are set")
    return row


async def _tell_gateways(tx: Transaction, organization_id: str, scope: Scope, identifier: str) -> None:
    if scope == "key":
        digest = await limit_store.digest_of_key(tx, UUID(identifier))
        await outbox.stage(tx, IdentityChanged(key_digest=digest))
    elif scope == "user":
        await outbox.stage(tx, IdentityChanged(user_id=identifier))
    else:
        await outbox.stage(tx, IdentityChanged(organization_id=organization_id))


async def _check_number(tx: Transaction, organization_id: str) -> None:
    if await limit_store.count_model_limits(tx, organization_id) >= MOST_MODEL_LIMITS:
        raise Conflict(f"an organization may have limits for {MOST_MODEL_LIMITS} patterns of models")


def _check_version(existing: LimitsRow | None, expected: int) -> None:
    if existing is None or existing.version != expected:
        raise PreconditionFailed


def _identifier(scope: Scope, identifier: str) -> str:
    """As it is stored. Raises ``NotFound`` for what can be nobody's id."""
    if scope in ("model", "organization"):
        return identifier.lower()
    try:
        return str(UUID(identifier))
    except ValueError:
        raise NotFound(f"{scope} not found") from None


def _shown(row: LimitsRow) -> SetLimits:
    return SetLimits.model_validate({"scope": row.scope, "id": row.id, "limits": _limits(row), "version": row.version})


def _applied(organization_id: str, row: LimitsRow) -> AppliedLimits:
    of_all_its_kind = row.scope in ("key", "organization")
    return AppliedLimits.model_validate(
        {
            "scope": row.scope,
            "id": row.id if of_all_its_kind else f"{organization_id}/{row.id}",
            "models": row.id if row.scope == "model" else "*",
            "limits": _limits(row),
        }
    )


def _limits(row: LimitsRow) -> Limits:
    return Limits(
        requests_per_minute=row.requests_per_minute,
        tokens_per_minute=row.tokens_per_minute,
        concurrent_streams=row.concurrent_streams,
        tokens_per_day=row.tokens_per_day,
        tokens_per_month=row.tokens_per_month,
    )
