"""One's own account: in a login session, and what guards it only with the password."""

from uuid import UUID

from libs.common import actor, outbox
from libs.common.contracts.auth.identity import IdentityChanged
from libs.common.contracts.auth.users import UpdateProfile, User
from libs.common.database import EVERY_ORGANIZATION, Transaction
from libs.common.errors import Conflict, InvalidRequest, NotFound
from services.auth import addresses, lockout, rights, sessions
from services.auth.confirmation import confirm_password, hold, own_id
from services.auth.context import Context
from services.auth.passwords import require_good
from services.auth.sessions import shown
from services.auth.store import users as user_store
from services.auth.store.users import Account, Credentials


async def get(ctx: Context) -> User:
    async with ctx.db.transaction() as tx:
        return shown(await _own(tx))


async def update(ctx: Context, query: UpdateProfile) -> User:
    """Raises as the message says."""
    user_id = own_id()
    async with ctx.db.transaction() as tx:
        before = await _own(tx)
    email = None if query.email is None else addresses.checked(query.email)
    if email == before.email:
        email = None
    confirmed = None if email is None else await confirm_password(ctx, query.password)
    try:
        return await _update(ctx, user_id, query, email, confirmed)
    except Conflict:  # counts as a registration does that finds an account: addresses are not to be tried out
        await lockout.note_failure(ctx, before.email, str(user_id), what="profile")
        raise


async def _update(
    ctx: Context, user_id: UUID, query: UpdateProfile, email: str | None, confirmed: Credentials | None
) -> User:
    """``email``: another one, which the password has confirmed."""
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await (user_store.lock_user(tx, user_id) if confirmed is None else hold(tx, confirmed))
        rights.check_version((await _own(tx)).version, query.expected_version)
        if not await user_store.update_user(tx, user_id, name=query.name.strip(), email=email):
            raise Conflict("this address has an account already")
        await outbox.stage(tx, IdentityChanged(user_id=str(user_id)))
        return shown(await _own(tx))


async def change_password(ctx: Context, current: str, new: str) -> None:
    """Ends all other sessions. Raises ``Forbidden``, ``RateLimited`` and ``InvalidRequest``."""
    user = await confirm_password(ctx, current)
    require_good(new, user.email, ctx.settings.password_min_length)
    if new == current:
        raise InvalidRequest("the new password is the old one")
    async with ctx.passwords.turn():
        password_hash = await ctx.passwords.hash(new)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await hold(tx, user)
        await user_store.update_user(tx, user.id, password_hash=password_hash)
        await sessions.end(tx, user.id, but=UUID(actor.current().session_id))


async def _own(tx: Transaction) -> Account:
    """The caller's, also if it calls with a key."""
    who = actor.current()
    account = await user_store.account_of(tx, who.organization_id, UUID(who.user_id))
    if account is None:
        raise NotFound("user not found")
    return account
