"""Requests as people look at them: those that ended from the journal, the others from the token log and the queue."""

import time

from redis.exceptions import RedisError

from libs.common import actor
from libs.common.contracts.paging import Page
from libs.common.contracts.permissions import OPERATING_ORGANIZATION
from libs.common.contracts.scheduler.decisions import AttemptDetails, Decision
from libs.common.contracts.scheduler.inference import AttemptRecord
from libs.common.contracts.scheduler.requests import (
    GetRequest,
    ListRequests,
    RequestDetails,
    RequestStatus,
    RequestSummary,
)
from libs.common.contracts.tokens import StreamEnd
from libs.common.endings import outcome_of
from libs.common.errors import NotFound, Unavailable
from libs.common.paging import decode_newest, page
from libs.common.token_log.store import Card, Entry
from services.scheduler import attempts, decisions, exchanges, queue
from services.scheduler.context import Context
from services.scheduler.newest import newest
from services.scheduler.store import requests as request_store
from services.scheduler.store.requests import JournalRow, Wanted

MOST_RUNNING = 10_000


async def list_requests(ctx: Context, query: ListRequests) -> Page[RequestSummary]:
    """Raises ``InvalidRequest`` for a cursor that is none of ours."""
    organization = actor.current().organization_id
    if query.status in ("waiting", "running"):
        live = await (_waiting(ctx, organization) if query.status == "waiting" else _running(ctx, organization))
        matching = [request for request in live if _matches(request, query)]
        return newest(matching, query.paging, lambda request: (request.accepted_at, request.id))
    wanted = Wanted(
        outcome=query.status,
        model=query.model,
        user_id=query.user_id,
        key_id=query.key_id,
        accepted_from=query.accepted_from,
        accepted_before=query.accepted_before,
    )
    before = decode_newest(query.paging.cursor, str)
    async with ctx.db.transaction() as tx:
        rows = await request_store.list_requests(tx, organization, wanted, before, query.paging.limit + 1)
    return page(rows, query.paging, _ended, lambda row: (row.accepted_at, row.request_id))


async def _waiting(ctx: Context, organization: str) -> list[RequestSummary]:
    return [
        RequestSummary(
            id=entry.id,
            status="waiting",
            kind=entry.kind,
            model=entry.model,
            user_id=entry.user_id,
            key_id=entry.key_id,
            attempt_count=entry.attempt_count,
            accepted_at=entry.accepted_at,
        )
        for entry in (await queue.read(ctx)).entries
        if entry.organization_id == organization
    ]


async def _running(ctx: Context, organization: str) -> list[RequestSummary]:
    """Whose they are is on their cards: heartbeats do not tell."""
    grants = [(worker, grant) for worker in ctx.fleet for grant in worker.grants.values()][:MOST_RUNNING]
    try:
        cards = await ctx.token_log.cards([grant.request_id for _, grant in grants])
    except RedisError as error:
        raise Unavailable from error
    return [
        _alive(grant.request_id, card, "running", attempt_count=grant.epoch, worker_id=worker.heartbeat.worker_id)
        for (worker, grant), card in zip(grants, cards, strict=True)
        if card is not None and card.organization_id == organization
    ]


def _matches(request: RequestSummary, query: ListRequests) -> bool:
    return (
        query.model in (None, request.model)
        and query.user_id in (None, request.user_id)
        and query.key_id in (None, request.key_id)
        and (query.accepted_from is None or request.accepted_at >= query.accepted_from)
        and (query.accepted_before is None or request.accepted_at < query.accepted_before)
    )


async def get(ctx: Context, query: GetRequest) -> RequestDetails:
    """Raises ``NotFound``: also for another organization's, and another user's where only one user's are asked for."""
    async with ctx.db.transaction() as tx:
        row = await request_store.get_request(tx, query.request_id)
        exchange = await exchanges.read(ctx, tx, query.request_id) if row else None
    if row is not None:
        details = RequestDetails(**_ended(row).model_dump(), attempts=_attempts(row), exchange=exchange)
    else:
        details = await _live(ctx, query.request_id)
    if query.user_id not in (None, details.user_id):
        raise NotFound("request not found")
    operates = query.user_id is None and actor.current().organization_id == OPERATING_ORGANIZATION
    return details if operates else _without_others(details)


async def _live(ctx: Context, request_id: str) -> RequestDetails:
    made = tuple(attempt_details(attempt) for attempt in await attempts.read(ctx, request_id))
    try:
        card = (await ctx.token_log.cards([request_id]))[0]
        last = await ctx.token_log.last(request_id)
    except RedisError as error:
        raise Unavailable from error
    if card is None or card.organization_id != actor.current().organization_id:
        raise NotFound("request not found")
    if last is not None and last.frame is not None and last.frame.end is not None:
        ended = _ending(request_id, card, last, last.frame.end)
        return ended.model_copy(update={"attempts": _with_end(made, ended)})
    if (worker := ctx.fleet.holder(request_id)) is not None:
        summary = _alive(
            request_id,
            card,
            "running",
            attempt_count=worker.grants[request_id].epoch,
            worker_id=worker.heartbeat.worker_id,
        )
        return RequestDetails(**summary.model_dump(), node=worker.heartbeat.node, attempts=made)
    board = await queue.read(ctx)
    for entry in board.entries:
        if entry.id == request_id:
            summary = _alive(request_id, card, "waiting", attempt_count=entry.attempt_count)
            return RequestDetails(
                **summary.model_dump(),
                position=entry.position,
                estimated_wait_seconds=entry.estimated_wait_seconds,
                refused_by=board.refused_by(entry),
                attempts=made,
            )
    status: RequestStatus = "running" if last is not None and last.frame is not None else "waiting"
    return RequestDetails(**_alive(request_id, card, status).model_dump(), attempts=made)


def _alive(
    request_id: str, card: Card, status: RequestStatus, *, attempt_count: int = 0, worker_id: str | None = None
) -> RequestSummary:
    return RequestSummary(
        id=request_id,
        status=status,
        kind=card.kind,
        model=card.model,
        user_id=card.user_id or None,
        key_id=card.key_id or None,
        worker_id=worker_id,
        attempt_count=attempt_count,
        accepted_at=card.accepted_at,
    )


def _ending(request_id: str, card: Card, last: Entry, end: StreamEnd) -> RequestDetails:
    """Ended, but not in the journal yet."""
    alive = _alive(request_id, card, outcome_of(end), attempt_count=last.epoch)
    return RequestDetails.model_validate(
        {
            **alive.model_dump(),
            "done_reason": end.done_reason,
            "error_code": end.error.code if end.error else None,
            "prompt_tokens": end.usage.prompt_tokens,
            "completion_tokens": end.usage.completion_tokens,
            "finished_at": time.time(),
        }
    )


def _with_end(made: tuple[AttemptDetails, ...], ended: RequestDetails) -> tuple[AttemptDetails, ...]:
    """What was written while it ran does not say how the last attempt ended."""
    end = {"ended": ended.status, "ended_at": ended.finished_at}
    return (*made[:-1], *(last if last.ended else last.model_copy(update=end) for last in made[-1:]))


def _attempts(row: JournalRow) -> tuple[AttemptDetails, ...]:
    return tuple(attempt_details(AttemptRecord.model_validate(attempt)) for attempt in row.attempts)


def attempt_details(attempt: AttemptRecord) -> AttemptDetails:
    decision = Decision.model_validate_json(attempt.decision_json) if attempt.decision_json else None
    return AttemptDetails(**attempt.model_dump(exclude={"decision_json"}), decision=decision)


def _without_others(details: RequestDetails) -> RequestDetails:
    """How much others have been served is known to those who run the installation."""
    own = tuple(
        attempt.model_copy(update={"decision": decisions.without_others(attempt.decision)})
        if attempt.decision
        else attempt
        for attempt in details.attempts
    )
    return details.model_copy(update={"attempts": own})


def _ended(row: JournalRow) -> RequestSummary:
    return RequestSummary.model_validate({**vars(row), "id": row.request_id, "status": row.outcome})
