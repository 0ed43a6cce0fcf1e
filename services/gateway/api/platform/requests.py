"""Inference requests: what became of them, and what is going on now."""

from typing import Annotated, Final

from fastapi import APIRouter, Path, Query
from redis.exceptions import RedisError
from starlette.responses import Response

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.gateway import InferenceCancelled
from libs.common.contracts.paging import Page
from libs.common.contracts.permissions import Permission
from libs.common.contracts.scheduler.requests import (
    GetRequest,
    ListRequests,
    RequestDetails,
    RequestStatus,
    RequestSummary,
)
from libs.common.errors import NotFound, Unavailable
from libs.common.token_log.store import LONGEST_LOG_ENTRIES, Card
from libs.common.token_log.tail import tail
from services.gateway.api.platform.caller import Ctx, needs
from services.gateway.api.platform.pages import Paging
from services.gateway.api.platform.resumed import LINES, ResumedAnswer
from services.gateway.api.platform.text import NO_NUL
from services.gateway.context import Context
from services.gateway.models import display_name
from services.gateway.permissions import may_see, whose

router = APIRouter(prefix="/inference/requests", tags=["inference"])

Reader = Annotated[Identity, needs(Permission.SELF_READ)]
Owner = Annotated[Identity, needs(Permission.SELF_MANAGE)]
Runner = Annotated[Identity, needs(Permission.INFERENCE_RUN)]

RequestId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="as in X-Request-Id of its answer")]
Text = Annotated[str | None, Query(max_length=400, pattern=NO_NUL)]
Time = Annotated[float | None, Query(ge=0, le=1e10, allow_inf_nan=False, description="seconds since the epoch")]

LATEST_SEQ: Final = LONGEST_LOG_ENTRIES


@router.get("")
async def requests(
    ctx: Ctx,
    caller: Reader,
    paging: Paging,
    *,
    status: RequestStatus | None = None,
    model: Text = None,
    user_id: Text = None,
    key_id: Text = None,
    accepted_from: Annotated[Time, Query(alias="from")] = None,
    accepted_before: Annotated[Time, Query(alias="to")] = None,
) -> Page[RequestSummary]:
    """Newest first: your own, or all of the organization if you may read those of others; 403 if you may not.

    Without a status: those that have ended. `waiting` and `running` are as of now.
    """
    query = ListRequests(
        status=status,
        model=display_name(model) if model else None,
        user_id=whose(caller, Permission.REQUEST_READ, user_id),
        key_id=key_id,
        accepted_from=accepted_from,
        accepted_before=accepted_before,
        paging=paging,
    )
    found = await ctx.bus.ask(query)
    return Page(items=tuple(each for each in found.items if may_see(caller, each.model)), next_cursor=found.next_cursor)


@router.get("/{request_id}")
async def request(request_id: RequestId, ctx: Ctx, caller: Reader) -> RequestDetails:
    """As it is now, or as it ended; with what was asked and answered, if the organization keeps that.

    404 for others', unless you may read those of the organization.
    """
    return await _find(ctx, caller, request_id, Permission.REQUEST_READ)


@router.delete("/{request_id}", status_code=204)
async def cancel(request_id: RequestId, ctx: Ctx, caller: Owner) -> None:
    """Its slot is free at once, and whoever reads its answer gets an error. Nothing happens if it has ended.

    404 for others', unless you may manage those of the organization.
    """
    card = await _card(ctx, request_id)
    if card is None:
        await _find(ctx, caller, request_id, Permission.REQUEST_MANAGE)
        return
    theirs = card.organization_id == caller.organization_id and may_see(caller, card.model)
    if not theirs or (card.user_id != caller.user_id and Permission.REQUEST_MANAGE not in caller.permissions):
        raise NotFound("request not found")
    await ctx.bus.publish(InferenceCancelled(request_id=request_id))


async def _find(ctx: Context, caller: Identity, request_id: str, of_others: Permission) -> RequestDetails:
    """Raises ``NotFound``."""
    owner = whose(caller, of_others)
    details = await ctx.bus.ask(GetRequest(request_id=request_id, user_id=owner))
    if not may_see(caller, details.model):
        raise NotFound("request not found")
    return details


async def _card(ctx: Context, request_id: str) -> Card | None:
    """None for requests that have ended, or never were."""
    try:
        return (await ctx.token_log.cards([request_id]))[0]
    except RedisError as error:
        raise Unavailable from error


@router.get("/{request_id}/stream", response_class=Response, responses=LINES)
async def stream(
    request_id: RequestId,
    ctx: Ctx,
    caller: Runner,
    after: Annotated[int, Query(ge=0, le=LATEST_SEQ, description="the last `seq` you have")] = 0,
) -> Response:
    """The answer from there on, as it comes, also when the gateway that took the request is gone.

    The last line has `done`, and `error` if there was one. 404 for others' requests, and when the answer is not kept
    any more: that is a minute after its end. 429 for who reads on too many at once.
    """
    card = await _card(ctx, request_id)
    mine = card is not None and (card.organization_id, card.user_id) == (caller.organization_id, caller.user_id)
    if card is None or not mine or not may_see(caller, card.model):
        raise NotFound("request not found, or its answer is not kept any more")
    return ResumedAnswer(ctx, tail(ctx.token_log, request_id, after, card.deadline))
