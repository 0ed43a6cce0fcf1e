"""Sessions: started by a login, refreshed with a token that works once, listed and ended."""

import asyncio
import hashlib
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
import structlog

from libs.common import actor, audit, outbox, paging
from libs.common.contracts.auth.identity import IdentityChanged
from libs.common.contracts.auth.sessions import ActiveSession, Session
from libs.common.contracts.auth.users import User
from libs.common.contracts.paging import Page, PageRequest
from libs.common.database import EVERY_ORGANIZATION, Transaction
from libs.common.errors import NotFound, Unauthenticated, Unavailable
from services.auth import rights
from services.auth.confirmation import own_id
from services.auth.context import Context
from services.auth.store import sessions as session_store
from services.auth.store import users as user_store
from services.auth.store.sessions import Lifetime, RefreshDigests
from services.auth.store.users import Account

log = structlog.get_logger(__name__)

REFRESH_TOKEN: Final = re.compile(r"omr_([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{43})")
"""What stays for the life of a session, and what is good for one refresh; both are stored as hashes. A token with a
right first half was good once: whoever shows it again is a thief, or was robbed."""

CLEAN_UP_SECONDS: Final = 3600.0
KEPT_SECONDS: Final = 86_400.0


@dataclass(frozen=True)
class Started:
    """A session of this account, and the token for its next refresh."""

    account: Account
    session: session_store.Session
    refresh_token: str


async def start(ctx: Context, tx: Transaction, account: Account, logged_in_at: datetime | None = None) -> Started:
    """From here on this task acts in the session. ``tx`` sees every organization.

    Raises ``Unauthenticated`` for who has been removed meanwhile.
    """
    family = secrets.token_urlsafe(16)
    token, digest = _new_token(family)
    session = await session_store.insert_session(
        tx, account, RefreshDigests(_digest(family), digest), _lifetime(ctx), logged_in_at
    )
    if session is None:
        raise Unauthenticated
    act_in(account.organization_id, str(account.id), str(session.id))
    oldest = await session_store.end_oldest(tx, account.id, ctx.settings.max_sessions_per_user)
    await _tell_ended(tx, account.id, oldest)
    return Started(account, session, token)


async def answer(ctx: Context, started: Started) -> Session:
    """After the commit."""
    account, session, seconds = started.account, started.session, ctx.settings.token_seconds
    return Session(
        access_token=await ctx.signer.access_token(account.organization_id, account.id, session.id, seconds),
        expires_in=seconds,
        refresh_token=started.refresh_token,
        refresh_expires_in=max(0, round(session.expires_at.timestamp() - time.time())),
        organization_id=account.organization_id,
        user=shown(account),
    )


def shown(account: Account) -> User:
    return User(
        id=str(account.id),
        email=account.email,
        name=account.name,
        organization_id=account.organization_id,
        role=account.role,
        disabled=account.disabled_at is not None,
        created_at=account.created_at.timestamp(),
        version=account.version,
    )


def act_in(organization_id: str, user_id: str, session_id: str) -> None:
    """From here on this task, and the audit of what it does, is on behalf of this user."""
    who = actor.current()
    actor.become(msgspec.structs.replace(who, organization_id=organization_id, user_id=user_id, session_id=session_id))


async def refresh(ctx: Context, refresh_token: str, organization_id: str) -> Session:
    """Raises ``Unauthenticated``; ``NotFound`` for an organization that the user is no member of.

    A token that comes a second time ends the session, whoever sends it. That may be a client whose answer was lost: it
    has to log in again, or a thief would have a grace period too.
    """
    match = REFRESH_TOKEN.fullmatch(refresh_token)
    if match is None:
        raise Unauthenticated
    family, used = match[1], RefreshDigests(_digest(match[1]), _digest(match[2]))
    token, following = _new_token(family)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        if organization_id:
            await _lock_owner(tx, used)
        session = await session_store.use_refresh_token(tx, used, following, _lifetime(ctx))
        if session is None:
            await _end_stolen(tx, used)
        else:
            started = await _go_on(ctx, tx, session, token, organization_id)
    if session is None:
        raise Unauthenticated
    return await answer(ctx, started)


async def _lock_owner(tx: Transaction, used: RefreshDigests) -> None:
    """Before the session, as who ends all sessions does, or each would wait for the other."""
    if session := await session_store.live_session_of_family(tx, used.family):
        await user_store.lock_user(tx, session.user_id)


async def _go_on(ctx: Context, tx: Transaction, session: session_store.Session, token: str, wanted: str) -> Started:
    """In another organization that is another session: tokens of the one never work in the other."""
    organization_id = wanted or session.organization_id
    account = await user_store.account_of(tx, organization_id, session.user_id)
    if account is None and organization_id != session.organization_id:
        raise NotFound("organization not found")
    if account is None or account.disabled_at is not None:
        raise Unauthenticated
    if organization_id == session.organization_id:
        act_in(organization_id, str(account.id), str(session.id))
        return Started(account, session, token)
    await _tell_ended(tx, session.user_id, await session_store.end_sessions(tx, session.user_id, only=session.id))
    started = await start(ctx, tx, account, session.created_at)
    await audit.record(tx, "auth", "session.moved", str(started.session.id), details={"from": session.organization_id})
    return started


async def _end_stolen(tx: Transaction, used: RefreshDigests) -> None:
    session = await session_store.live_session_of_family(tx, used.family)
    if session is None or session.refresh_digest == used.current:
        return
    act_in(session.organization_id, "", str(session.id))
    await _tell_ended(tx, session.user_id, await session_store.end_sessions(tx, session.user_id, only=session.id))
    await audit.record(tx, "auth", "session.reuse_detected", str(session.id), details={"user_id": str(session.user_id)})


async def list_own(ctx: Context, request: PageRequest) -> Page[ActiveSession]:
    user_id, current = own_id(), actor.current().session_id
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        rows = await session_store.sessions_of(
            tx, user_id, paging.decode_newest(request.cursor, UUID), request.limit + 1
        )

    def show(session: session_store.Session) -> ActiveSession:
        return ActiveSession(
            id=str(session.id),
            organization_id=session.organization_id,
            ip=session.ip,
            user_agent=session.user_agent,
            created_at=session.created_at.timestamp(),
            last_used_at=session.last_used_at.timestamp(),
            expires_at=session.expires_at.timestamp(),
            current=str(session.id) == current,
        )

    return paging.page(rows, request, show, lambda session: (session.created_at.timestamp(), str(session.id)))


async def end_own(ctx: Context, session_id: str) -> None:
    """Raises ``NotFound``. Empty: the one that this task acts in."""
    user_id = own_id()
    identifier = rights.uuid_of(session_id or actor.current().session_id, "session")
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        if not await end(tx, user_id, only=identifier) and session_id:
            raise NotFound("session not found")


async def end_all_own(ctx: Context, *, keep_current: bool) -> None:
    user_id = own_id()
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await end(tx, user_id, but=UUID(actor.current().session_id) if keep_current else None)


async def end(tx: Transaction, user_id: UUID, *, only: UUID | None = None, but: UUID | None = None) -> bool:
    """Whether there was any. Those that the transaction sees: of one organization, or of all."""
    await user_store.lock_out(tx, user_id)
    ended = await session_store.end_sessions(tx, user_id, only=only, but=but)
    await _tell_ended(tx, user_id, ended)
    return bool(ended)


async def _tell_ended(tx: Transaction, user_id: UUID, ended: Iterable[UUID]) -> None:
    for session_id in ended:
        await outbox.stage(tx, IdentityChanged(session_id=str(session_id)))
        await audit.record(tx, "auth", "session.ended", str(session_id), details={"user_id": str(user_id)})


async def clean_up(ctx: Context) -> None:
    """Background loop: sessions that have ended are kept for a day, in which their end can be looked up."""
    while True:
        try:
            async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
                await session_store.delete_ended(tx, KEPT_SECONDS)
        except Unavailable as error:
            log.warning("could not delete ended sessions; will try again", reason=error.message)
        await asyncio.sleep(CLEAN_UP_SECONDS)


def _new_token(family: str) -> tuple[str, str]:
    """(token, digest of the half that works once)"""
    once = secrets.token_urlsafe(32)
    return f"omr_{family}.{once}", _digest(once)


def _digest(half: str) -> str:
    """256 (and 128) random bits: nobody guesses them, so a plain hash is enough."""
    return hashlib.sha256(half.encode()).hexdigest()


def _lifetime(ctx: Context) -> Lifetime:
    return Lifetime(ctx.settings.refresh_days, ctx.settings.session_days)
