"""Sessions: logging in and what follows."""

from libs.common.bus.base import Handlers
from libs.common.contracts.auth.sessions import (
    ActiveSession,
    EndSession,
    EndSessions,
    ListSessions,
    Login,
    Refresh,
    Register,
    Session,
)
from libs.common.contracts.paging import Page
from services.auth import identities, sessions
from services.auth.context import Context

handlers = Handlers("auth")


@handlers.on(Login)
async def login(query: Login, ctx: Context) -> Session:
    return await identities.log_in(ctx, query)


@handlers.on(Register)
async def register(query: Register, ctx: Context) -> Session:
    return await identities.register(ctx, query)


@handlers.on(Refresh)
async def refresh(query: Refresh, ctx: Context) -> Session:
    return await sessions.refresh(ctx, query.refresh_token, query.organization_id)


@handlers.on(ListSessions)
async def list_sessions(query: ListSessions, ctx: Context) -> Page[ActiveSession]:
    return await sessions.list_own(ctx, query.paging)


@handlers.on(EndSession)
async def end_session(query: EndSession, ctx: Context) -> None:
    await sessions.end_own(ctx, query.session_id)


@handlers.on(EndSessions)
async def end_sessions(query: EndSessions, ctx: Context) -> None:
    await sessions.end_all_own(ctx, keep_current=query.keep_current)
