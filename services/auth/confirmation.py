"""Who changes what guards an account proves once more who they are: in a login session, with password and code."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from libs.common import actor
from libs.common.database import EVERY_ORGANIZATION, Transaction
from libs.common.errors import Forbidden, SecondFactorRequired, Unauthenticated, Unavailable, WrongCode
from services.auth import accounts, callers, lockout, second_factor
from services.auth.context import Context
from services.auth.store import users as user_store
from services.auth.store.users import Credentials, User


def own_id() -> UUID:
    """The caller's account. Raises ``Forbidden`` for an API key: what holds one is a program."""
    who = actor.current()
    if not who.session_id:
        raise Forbidden("this needs a login; an API key may not do it")
    return UUID(who.user_id)


async def confirm_password(ctx: Context, password: str) -> Credentials:
    """The caller's. What it confirms begins with ``hold``.

    Raises ``Forbidden``, not ``Unauthenticated``: the session is as good as before. Raises ``RateLimited`` after some
    failures, as a login does.
    """
    own_id()
    async with ctx.passwords.turn():
        return await _who_knows(ctx, password)


async def _who_knows(ctx: Context, password: str) -> Credentials:
    """Within a turn, as all guesses."""
    caller = await callers.acting(ctx)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await lockout.check(tx, caller.email)
        user = await user_store.credentials_of(tx, caller.email)
    if user is None:
        raise Unauthenticated
    if not await ctx.passwords.matches(password, user.password_hash):
        await lockout.note_failure(ctx, user.email, str(user.id))
        raise Forbidden("wrong password")
    return user


async def hold(tx: Transaction, user: Credentials) -> None:
    """Nobody changes this account until the transaction ends. Raises ``Unavailable`` if somebody has since it was read:
    a new password is there to stop who knew the old one.
    """
    if not await user_store.lock_unchanged(tx, user.id, user.version):
        raise Unavailable("this account was changed meanwhile; please try again")


@asynccontextmanager
async def confirmed(
    ctx: Context, password: str, code: str, *, in_all_organizations: bool = False
) -> AsyncIterator[tuple[Transaction, User]]:
    """A transaction for the caller, who has shown both; a used code is used up with it. Raises ``Forbidden``.

    ``in_all_organizations``: they are locked, too.
    """
    own_id()
    async with ctx.passwords.turn():
        user = await _who_knows(ctx, password)
        try:
            async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
                if in_all_organizations:
                    await accounts.lock_organizations(tx, user.id)
                await hold(tx, user)
                await lockout.check(tx, user.email)
                await second_factor.demand(ctx, tx, user, code)
                yield tx, user
        except SecondFactorRequired as error:
            raise Forbidden(error.message) from None
        except WrongCode as error:
            await lockout.note_failure(ctx, user.email, str(user.id))
            raise Forbidden(error.message) from None
