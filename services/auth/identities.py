"""Users become known: the first admin, registering, logging in; and the keys that prove it."""

import asyncio
from typing import Final

import structlog

from libs.common import audit, outbox
from libs.common.contracts.auth.identity import IdentityChanged, SigningKeys
from libs.common.contracts.auth.sessions import Login, Register, Session
from libs.common.contracts.permissions import OPERATING_ORGANIZATION
from libs.common.database import EVERY_ORGANIZATION, Transaction
from libs.common.errors import (
    Conflict,
    Forbidden,
    NotFound,
    Unauthenticated,
    Unavailable,
    WrongCode,
)
from libs.common.sealing import CannotOpenError
from services.auth import addresses, invitations, lockout, members, second_factor, sessions
from services.auth.confirmation import hold
from services.auth.context import Context
from services.auth.invitations import Redeemed
from services.auth.passwords import require_good
from services.auth.store import keys as key_store
from services.auth.store import second_factor as second_factor_store
from services.auth.store import signing as signing_store
from services.auth.store import users as user_store
from services.auth.store.users import Account, Credentials

log = structlog.get_logger(__name__)

ROLE_OF_STRANGERS: Final = "user"
SIGNING_KEYS_SECONDS: Final = 60.0


async def create_first_admin(ctx: Context) -> None:
    """From AUTH_ADMIN_EMAIL and AUTH_ADMIN_PASSWORD, if both are set and there is no admin yet. Replicas may race.

    An account of that address becomes the admin with this password. Whoever had it before is out: its sessions, keys
    and second factor are gone.
    """
    if ctx.settings.admin_email is None or ctx.settings.admin_password is None:
        return
    email = addresses.normalised(ctx.settings.admin_email)
    if not addresses.is_address(email):
        raise SystemExit("AUTH_ADMIN_EMAIL is not an e-mail address")
    async with ctx.db.transaction(OPERATING_ORGANIZATION) as tx:
        if await user_store.has_admin(tx, OPERATING_ORGANIZATION):
            return
    password_hash = await ctx.passwords.hash(ctx.settings.admin_password.get_secret_value())
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        user_id = await user_store.insert_first_admin(tx, OPERATING_ORGANIZATION, email, password_hash)
        if user_id is None:
            return
        await sessions.end(tx, user_id)
        await key_store.revoke_all(tx, user_id)
        await second_factor_store.delete_second_factor(tx, user_id)
        await outbox.stage(tx, IdentityChanged(user_id=str(user_id)))
    log.info("made the first admin", email=email)


async def log_in(ctx: Context, query: Login) -> Session:
    """Raises ``Unauthenticated``: in the same words, after the same work, for an unknown user and a wrong password.

    All of it within a turn, so that of many guesses at once no more are made than of one after the other.
    """
    email = addresses.normalised(query.email)
    async with ctx.passwords.turn():
        user = await _credentials(ctx, email)
        matches = await ctx.passwords.matches(query.password, user.password_hash if user else None)
        if user is None or not matches:
            await _note_failure(ctx, email, user)
            raise Unauthenticated("wrong email or password")
        fresh_hash = None
        if ctx.passwords.is_outdated(user.password_hash):
            fresh_hash = await ctx.passwords.hash(query.password)
        try:
            started = await _admit(ctx, query, user, fresh_hash)
        except WrongCode:
            await _note_failure(ctx, email, user)
            raise
    return await sessions.answer(ctx, started)


async def _credentials(ctx: Context, email: str) -> Credentials | None:
    """None as well for those who are disabled or belong nowhere. Raises ``RateLimited``."""
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await lockout.check(tx, email)
        user = await user_store.credentials_of(tx, email) if addresses.is_address(email) else None
        return user if user is not None and user.may_enter else None


async def _admit(ctx: Context, query: Login, user: Credentials, fresh_hash: str | None) -> sessions.Started:
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await hold(tx, user)
        sessions.act_in(user.organization_id, str(user.id), "")
        await second_factor.demand(ctx, tx, user, query.code)
        account = await _account(tx, user, query.organization_id)
        sessions.act_in(account.organization_id, str(user.id), "")
        await lockout.forgive(tx, user.email)
        if fresh_hash is not None:
            await user_store.rehash(tx, user.id, user.password_hash, fresh_hash)
        started = await sessions.start(ctx, tx, account)
        await audit.record(tx, "auth", "login.succeeded", str(user.id))
        return started


async def _account(tx: Transaction, user: Credentials, organization_id: str) -> Account:
    """In this organization, or in the first. Raises ``NotFound``, and ``Unauthenticated`` if there is none any more."""
    accounts = await user_store.accounts_of(tx, user.id)
    if not accounts:
        raise Unauthenticated("wrong email or password")
    account = next((each for each in accounts if organization_id in ("", each.organization_id)), None)
    if account is None:
        raise NotFound("organization not found")
    return account


async def _note_failure(ctx: Context, email: str, user: Credentials | None) -> None:
    """In the log of the organization whose user it is; nobody has been recognised."""
    if user is not None:
        sessions.act_in(user.organization_id, "", "")
    await lockout.note_failure(ctx, email, str(user.id) if user else "")


async def register(ctx: Context, query: Register) -> Session:
    """Raises as the message says.

    With open registration ``Conflict`` tells that an address has an account: without mail there is no other way. With
    an invitation it tells only who holds the one for that address.
    """
    if ctx.settings.registration == "closed":
        raise Forbidden("registration is closed")
    if ctx.settings.registration == "invitation" and not query.invitation:
        raise Forbidden("registration needs an invitation")
    email = addresses.checked(query.email)
    require_good(query.password, email, ctx.settings.password_min_length)
    async with ctx.passwords.turn():
        async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
            await lockout.check(tx, email)
        try:
            started = await _insert(ctx, query, email, await ctx.passwords.hash(query.password))
        except (Conflict, NotFound):
            await lockout.note_failure(ctx, email, what="registration")
            raise
    return await sessions.answer(ctx, started)


async def _insert(ctx: Context, query: Register, email: str, password_hash: str) -> sessions.Started:
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        joined = Redeemed(OPERATING_ORGANIZATION, ROLE_OF_STRANGERS)
        if query.invitation:
            joined = await invitations.redeem(tx, query.invitation, email)
        sessions.act_in(joined.organization_id, "", "")
        user_id = await user_store.insert_user(tx, joined.organization_id, email, query.name.strip(), password_hash)
        if user_id is None:
            raise Conflict("this address has an account; log in, and accept the invitation if you have one")
        await members.join(tx, joined.organization_id, user_id, joined.role)
        if not query.invitation:
            await lockout.count_uninvited(tx)
        account = await user_store.account_of(tx, joined.organization_id, user_id)
        assert account is not None
        return await sessions.start(ctx, tx, account)


async def signing_keys(ctx: Context) -> SigningKeys:
    async with ctx.db.transaction() as tx:
        return SigningKeys(keys=tuple(key.public_jwk for key in await signing_store.signing_keys(tx)))


async def rotate_signing_keys(ctx: Context) -> None:
    """Background loop: learns of new keys well before they sign."""
    while True:
        await asyncio.sleep(SIGNING_KEYS_SECONDS)
        try:
            await ctx.signer.refresh(ctx.settings.signing_key_days)
        except Unavailable as error:
            log.warning("could not look for new signing keys; will try again", reason=error.message)
        except CannotOpenError:
            log.error("a signing key was sealed under another AUTH_SECRET_KEY; all replicas need the same")
