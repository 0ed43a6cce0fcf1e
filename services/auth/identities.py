"""Users: the first admin, logging in, and the keys that prove who did."""

import re

import structlog

from libs.common.contracts.auth import Session, SigningKeys
from libs.common.errors import Unauthenticated
from services.auth import store
from services.auth.context import Context

log = structlog.get_logger(__name__)

EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s]{1,189}")


async def create_first_admin(ctx: Context) -> None:
    """From AUTH_ADMIN_EMAIL and AUTH_ADMIN_PASSWORD, if both are set and there is no admin yet. Replicas may race."""
    if ctx.settings.admin_email is None or ctx.settings.admin_password is None:
        return
    email = normalised(ctx.settings.admin_email)
    if not _is_address(email):
        raise SystemExit("AUTH_ADMIN_EMAIL is not an e-mail address")
    async with ctx.db.transaction() as tx:
        if await store.has_admin(tx):
            return
    password_hash = await ctx.passwords.hash(ctx.settings.admin_password.get_secret_value())
    async with ctx.db.transaction() as tx:
        created = await store.insert_first_admin(tx, email, password_hash)
    if created:
        log.info("created the first admin", email=email)


async def log_in(ctx: Context, email: str, password: str) -> Session:
    """Raises ``Unauthenticated``: in the same words, after the same work, for an unknown user and a wrong password."""
    address = normalised(email)
    user = None
    if _is_address(address):
        async with ctx.db.transaction() as tx:
            user = await store.credentials_of(tx, address)
    matches = await ctx.passwords.matches(password, user.password_hash if user else None)
    if user is None or not matches:
        raise Unauthenticated("wrong email or password")
    return await ctx.signer.session(user)


async def signing_keys(ctx: Context) -> SigningKeys:
    async with ctx.db.transaction() as tx:
        return SigningKeys(keys=tuple(await store.public_keys(tx)))


def normalised(email: str) -> str:
    """Addresses differ by case in theory only."""
    return email.strip().lower()


def _is_address(text: str) -> bool:
    return text.isprintable() and EMAIL.fullmatch(text) is not None
