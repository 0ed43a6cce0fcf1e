"""Dependencies of the platform's routes: every route names the permission it needs, or says that it is public."""

from typing import Annotated, Any, Final

from fastapi import Depends, Request

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.permissions import Permission
from services.gateway.api.caller import act_for, require_caller
from services.gateway.context import Context
from services.gateway.permissions import check


def _context(request: Request) -> Context:
    ctx: Context = request.app.state.context
    return ctx


Ctx = Annotated[Context, Depends(_context)]


class Needs:
    """The caller, who has this permission. Raises ``Unauthenticated`` and ``Forbidden``."""

    def __init__(self, permission: Permission) -> None:
        self.permission = permission

    async def __call__(self, request: Request, ctx: Ctx) -> Identity:
        caller = await require_caller(ctx, request.headers)
        act_for(caller)
        check(caller, self.permission)
        return caller


def needs(permission: Permission) -> Any:
    """For an argument: ``caller: Annotated[Identity, needs(Permission.MODEL_READ)]``."""
    return Depends(Needs(permission))


async def open_to_everybody() -> None:
    """Nothing to check."""


PUBLIC: Final = Depends(open_to_everybody)
"""For ``dependencies=[PUBLIC]`` of a route that callers without credentials may use."""
