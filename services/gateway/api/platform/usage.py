"""What was used, as the token ledger has it: a few moments old, exact, and never forgotten."""

import re
from datetime import date
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BeforeValidator

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.auth.usage import GetUsage, Grouping, UsageRow
from libs.common.contracts.paging import Page
from libs.common.contracts.permissions import Permission
from services.gateway.api.platform.caller import Ctx, needs
from services.gateway.api.platform.pages import Paging
from services.gateway.api.platform.text import NO_NUL
from services.gateway.models import LONGEST_NAME, display_name
from services.gateway.permissions import whose

router = APIRouter(tags=["usage"])

Reader = Annotated[Identity, needs(Permission.SELF_READ)]

Text = Annotated[str | None, Query(max_length=100, pattern=NO_NUL)]
Model = Annotated[str | None, Query(max_length=LONGEST_NAME, pattern=NO_NUL)]
Groups = Annotated[tuple[Grouping, ...], Query(max_length=4, description="may be repeated")]


def _written_out(text: object) -> object:
    """Not as seconds since the epoch, which pydantic would take for a day, too."""
    if isinstance(text, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", text) is None:
        raise ValueError("must be a day, as 2026-11-21")
    return text


Day = Annotated[date, BeforeValidator(_written_out)]
First = Annotated[Day | None, Query(alias="from", description="day of UTC, as 2026-11-21; included")]
Last = Annotated[Day | None, Query(alias="to", description="day of UTC; included")]


@router.get("/usage")
async def usage(
    ctx: Ctx,
    caller: Reader,
    paging: Paging,
    *,
    group_by: Groups = ("day",),
    user_id: Text = None,
    key_id: Text = None,
    model: Model = None,
    since: First = None,
    until: Last = None,
) -> Page[UsageRow]:
    """Requests and tokens: your own, or the organization's if you may read its usage; 403 if you may not.

    Only of models that you may see. Newest day first, then by user, key and model.
    """
    query = GetUsage(
        organization_id=caller.organization_id,
        group_by=group_by,
        user_id=whose(caller, Permission.USAGE_READ, user_id),
        key_id=key_id,
        model=display_name(model) if model else None,
        patterns=caller.models,
        since=since,
        until=until,
        page=paging,
    )
    return await ctx.bus.ask(query)


@router.get("/models/{model:path}/usage")
async def usage_of_model(
    model: Annotated[str, Path(max_length=LONGEST_NAME, description="its name")],
    ctx: Ctx,
    caller: Reader,
    paging: Paging,
    *,
    group_by: Groups = ("day",),
    since: First = None,
    until: Last = None,
) -> Page[UsageRow]:
    """As `GET /usage`, of one model that is there now."""
    found = await ctx.models.resolve(caller, model)
    query = GetUsage(
        organization_id=caller.organization_id,
        group_by=group_by,
        user_id=whose(caller, Permission.USAGE_READ),
        model=found.name,
        since=since,
        until=until,
        page=paging,
    )
    return await ctx.bus.ask(query)
