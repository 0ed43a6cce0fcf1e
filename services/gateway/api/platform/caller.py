"""Dependencies of the platform's routes."""

from typing import Annotated

from fastapi import Depends, Request

from libs.common.contracts.auth import Identity
from services.gateway.api.caller import require_caller
from services.gateway.context import Context


def _context(request: Request) -> Context:
    ctx: Context = request.app.state.context
    return ctx


Ctx = Annotated[Context, Depends(_context)]


async def _caller(request: Request, ctx: Ctx) -> Identity:
    return await require_caller(ctx, request.headers)


Caller = Annotated[Identity, Depends(_caller)]
