"""One person's data: handed out as a whole, and forgotten everywhere."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

import structlog

from libs.common import actor, audit, outbox
from libs.common.contracts import gateway, registry
from libs.common.contracts.auth.identity import IdentityChanged
from libs.common.contracts.auth.privacy import UserErased, UserExport
from libs.common.contracts.permissions import Permission
from libs.common.contracts.scheduler import requests
from libs.common.database import EVERY_ORGANIZATION, Transaction
from libs.common.errors import Forbidden, NotFound, Overloaded, Unavailable
from services.auth import accounts, callers, lockout, rights
from services.auth.confirmation import confirmed, own_id
from services.auth.context import Context
from services.auth.store import privacy as privacy_store
from services.auth.store import users as user_store
from services.auth.store.users import Account

log = structlog.get_logger(__name__)

OTHERS_SECONDS: Final = 20
READS_ALL: Final = (Permission.REQUEST_READ, Permission.USAGE_READ, Permission.AUDIT_READ)

FORGOTTEN_AT_ONCE: Final = 5000
"""Rows of the ledger, which fit well into one statement's time."""

AGAIN_SECONDS: Final = 3600.0
FOR_SECONDS: Final = 86_400.0
LOOK_SECONDS: Final = 600.0


async def export_own(ctx: Context) -> UserExport:
    """Raises ``Forbidden`` for an API key, ``Unavailable`` unless all services answer."""
    user_id = own_id()
    async with _turn(ctx):
        return await _export(ctx, user_id, None)


async def export(ctx: Context, user_id: str) -> UserExport:
    """Raises ``NotFound`` for who is no member here, ``Forbidden`` for who may not read all of it one by one."""
    caller = await callers.acting(ctx)
    rights.demand_permissions(caller, READS_ALL)
    organization = None if Permission.TENANT_MANAGE in caller.permissions else caller.organization_id
    async with ctx.db.transaction(organization or EVERY_ORGANIZATION) as tx:
        known = await user_store.accounts_of(tx, rights.uuid_of(user_id, "user"))
    if not known:
        raise NotFound("user not found")
    async with _turn(ctx):
        return await _export(ctx, known[0].id, organization)


@asynccontextmanager
async def _turn(ctx: Context) -> AsyncIterator[None]:
    """Nobody waits for theirs: those who wait here would keep logins waiting. Raises ``Overloaded``."""
    if ctx.exporting.locked():
        raise Overloaded("others are exporting; please try again", retry_after=5)
    async with ctx.exporting:
        yield


async def _export(ctx: Context, user_id: UUID, organization: str | None) -> UserExport:
    async with ctx.db.transaction(organization or EVERY_ORGANIZATION) as tx:
        profile = await privacy_store.profile_of(tx, user_id)
        parts = {name: await privacy_store.part_of(tx, part, user_id) for name, part in privacy_store.PARTS.items()}
        await audit.record(tx, "auth", "user.exported", str(user_id))
    if profile is None:
        raise NotFound("user not found")
    asked = {"user_id": str(user_id), "organization_id": organization}
    theirs, models, stored = await asyncio.gather(
        ctx.bus.ask(requests.ExportUser.model_validate(asked), timeout=OTHERS_SECONDS),
        ctx.bus.ask(registry.ExportUser.model_validate(asked), timeout=OTHERS_SECONDS),
        ctx.bus.ask(gateway.ExportUser.model_validate(asked), timeout=OTHERS_SECONDS),
    )
    return UserExport(
        exported_at=time.time(),
        organization_id=organization,
        profile=profile,
        requests=theirs.requests,
        exchanges=theirs.exchanges,
        models=models,
        files=stored.files,
        batches=stored.batches,
        responses=stored.responses,
        **parts,
    )


async def erase_own(ctx: Context, password: str, code: str) -> None:
    """Raises ``Forbidden``, and ``Conflict`` for the last admin of an organization."""
    async with confirmed(ctx, password, code, in_all_organizations=True) as (tx, user):
        await _erase(tx, await user_store.accounts_of(tx, user.id))


async def erase(ctx: Context, user_id: str) -> None:
    """Raises ``NotFound``, ``Forbidden``, and ``Conflict`` for the last admin of an organization."""
    caller = await callers.acting(ctx)
    if actor.current().user_id == user_id:
        raise Forbidden("erase your own account with your password: POST /api/v1/users/profile/erase")
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        user, *_ = await accounts.managed(tx, caller, user_id)
        await accounts.lock_organizations(tx, user.id)
        await _erase(tx, await accounts.managed(tx, caller, user_id))


async def _erase(tx: Transaction, account: list[Account]) -> None:
    """``account``: in each of its organizations, which are locked."""
    user = account[0]
    await lockout.forgive(tx, user.email)
    await privacy_store.delete_user(tx, user.id)
    await privacy_store.remember_erased(tx, user.id)
    await accounts.keep_admins(tx, account)
    await audit.record(tx, "auth", "user.erased", str(user.id))
    await outbox.stage(tx, IdentityChanged(user_id=str(user.id)))
    await outbox.stage(tx, UserErased(user_id=str(user.id)))


async def forget_usage(ctx: Context, user_id: str, at_once: int = FORGOTTEN_AT_ONCE) -> None:
    """Tokens stay counted, for nobody. However many rows there are, nobody who counts waits for long."""
    forgotten = at_once
    while forgotten == at_once:
        async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
            forgotten = await privacy_store.forget_in_ledger(tx, user_id, at_once)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await privacy_store.forget_in_sums(tx, user_id)


async def remind(ctx: Context) -> None:
    """Background loop: what still ran for erased users may have been written down after they were forgotten."""
    while True:
        try:
            await remind_now(ctx, AGAIN_SECONDS, FOR_SECONDS)
        except Unavailable as error:
            log.warning("could not remind of erased users; will try again", reason=error.message)
        await asyncio.sleep(LOOK_SECONDS)


async def remind_now(ctx: Context, again_seconds: float, for_seconds: float) -> None:
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        for user_id in await privacy_store.due_again(tx, again_seconds):
            await outbox.stage(tx, UserErased(user_id=str(user_id)))
        await privacy_store.forget_erased(tx, for_seconds)
