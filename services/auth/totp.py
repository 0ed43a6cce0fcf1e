"""Setting up the second factor: a secret for an app on the user's phone, offered, activated, removed."""

import asyncio
import base64
import io
import time
from datetime import datetime
from typing import Final
from uuid import UUID

import pyotp
import segno

from libs.common import outbox
from libs.common.contracts.auth.identity import IdentityChanged
from libs.common.contracts.auth.second_factor import OfferedTotp, RecoveryCodes, SecondFactor
from libs.common.database import EVERY_ORGANIZATION, Transaction
from libs.common.errors import Conflict, Forbidden, NotFound, WrongCode
from services.auth import accounts, callers, lockout, recovery_codes
from services.auth.confirmation import confirm_password, confirmed, hold, own_id
from services.auth.context import Context
from services.auth.second_factor import matching_counter, secret_of
from services.auth.store import second_factor as second_factor_store

ISSUER: Final = "OllamaMax"


async def state(ctx: Context) -> SecondFactor:
    user_id, caller = own_id(), await callers.acting(ctx)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        activated = await _activated(tx, user_id)
        policy = await second_factor_store.policy_of(tx, caller.organization_id)
        left = await second_factor_store.count_recovery_codes(tx, user_id)
    return SecondFactor(
        active=activated is not None,
        required=policy is not None and caller.role in policy.second_factor_roles,
        activated_at=activated.timestamp() if activated else None,
        recovery_codes_left=left,
    )


async def offer(ctx: Context, password: str) -> OfferedTotp:
    """Raises ``Forbidden`` for a wrong password, ``Conflict`` if one is active."""
    user = await confirm_password(ctx, password)
    secret = pyotp.random_base32()
    sealed = ctx.sealing.seal(secret.encode(), second_factor_store.place_of(user.id))
    async with ctx.db.transaction() as tx:
        await hold(tx, user)
        if not await second_factor_store.offer_totp(tx, user.id, sealed):
            raise Conflict("a second factor is active; remove it first")
    uri = pyotp.TOTP(secret).provisioning_uri(name=user.email, issuer_name=ISSUER)
    svg, png = await asyncio.to_thread(_drawn, uri)
    return OfferedTotp(secret=secret, uri=uri, qr_svg=svg, qr_png=png)


async def activate(ctx: Context, code: str) -> RecoveryCodes:
    """Raises ``Forbidden`` for a wrong code, ``NotFound`` if nothing was offered, ``Conflict`` if it is active.

    Wrong codes count as failed logins: a stolen session is not to activate what its owner never finished.
    """
    user_id, caller = own_id(), await callers.acting(ctx)
    async with ctx.passwords.turn():
        try:
            return await _activate(ctx, user_id, caller.email, code)
        except WrongCode:
            await lockout.note_failure(ctx, caller.email, caller.user_id)
            raise Forbidden("wrong code") from None


async def _activate(ctx: Context, user_id: UUID, email: str, code: str) -> RecoveryCodes:
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await lockout.check(tx, email)
        totp = await second_factor_store.totp_of(tx, user_id)
        if totp is None:
            raise NotFound("no second factor was offered")
        if totp.activated_at is not None:
            raise Conflict("the second factor is active already")
        counter = matching_counter(secret_of(ctx, user_id, totp), code, time.time())
        if counter is None:
            raise WrongCode
        if not await second_factor_store.activate_totp(tx, user_id, totp.sealed_secret, counter):
            raise Conflict("another request has changed the second factor meanwhile")
        codes = await recovery_codes.replace(tx, user_id)
        await _rights_changed(tx, user_id)
    return RecoveryCodes(codes=codes)


async def renew_recovery_codes(ctx: Context, password: str, code: str) -> RecoveryCodes:
    async with confirmed(ctx, password, code) as (tx, user):
        if await _activated(tx, user.id) is None:
            raise NotFound("there is no second factor")
        return RecoveryCodes(codes=await recovery_codes.replace(tx, user.id))


async def remove(ctx: Context, password: str, code: str) -> None:
    async with confirmed(ctx, password, code) as (tx, user):
        await _delete(tx, user.id)


async def reset(ctx: Context, user_id: str) -> None:
    """Of a member who has lost it, by who manages members. Raises ``NotFound`` and ``Forbidden``.

    Not one's own, which a stolen session or key must not take away.
    """
    caller = await callers.acting(ctx)
    if caller.user_id == user_id:
        raise Forbidden("remove your own second factor with password and code: DELETE /api/v1/auth/totp")
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        account, *_ = await accounts.managed(tx, caller, user_id)
        await _delete(tx, account.id)


async def _delete(tx: Transaction, user_id: UUID) -> None:
    if not await second_factor_store.delete_second_factor(tx, user_id):
        raise NotFound("there is no second factor")
    await _rights_changed(tx, user_id)


async def _rights_changed(tx: Transaction, user_id: UUID) -> None:
    """Those of a member whose role demands a second factor."""
    await outbox.stage(tx, IdentityChanged(user_id=str(user_id)))


async def _activated(tx: Transaction, user_id: UUID) -> datetime | None:
    totp = await second_factor_store.totp_of(tx, user_id)
    return totp.activated_at if totp else None


def _drawn(uri: str) -> tuple[str, str]:
    """As an SVG document and as PNG in base64."""
    code, svg, png = segno.make(uri, error="m", micro=False), io.BytesIO(), io.BytesIO()
    code.save(svg, kind="svg", scale=4, xmldecl=False)
    code.save(png, kind="png", scale=6)
    return svg.getvalue().decode(), base64.b64encode(png.getvalue()).decode()
