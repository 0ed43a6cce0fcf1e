"""A request that loses its worker or its engine each time is given up, and operators hear of it."""

import structlog
from prometheus_client import Counter

from libs.common import audit
from libs.common.actor import Actor, acting
from libs.common.contracts.auth.audit import RecordAudit
from libs.common.contracts.scheduler.inference import LOSSES
from libs.common.errors import AttemptsExhausted, Unavailable
from services.scheduler import dispatch
from services.scheduler.context import Context
from services.scheduler.waiting import Waiting

log = structlog.get_logger(__name__)

_poisoned = Counter("scheduler_poisoned_total", "Requests given up because they lost too many workers or engines")


def give_up(ctx: Context, waiting: Waiting) -> None:
    request = waiting.request
    _poisoned.inc()
    log.error("a request is given up", request_id=request.request_id, losses=waiting.losses, model=request.model.name)
    error = AttemptsExhausted(
        f"the request was given up: {waiting.losses} times the worker or the engine that ran it died or hung"
    )
    dispatch.refuse(ctx, waiting, error)
    ctx.tasks.start(_tell(ctx, _event(waiting)), "tell of a poisoned request")


def _event(waiting: Waiting) -> RecordAudit:
    request = waiting.request
    lost = [attempt for attempt in request.attempts if attempt.ended in LOSSES]
    who = Actor(
        organization_id=request.organization_id,
        user_id=request.user_id or "",
        key_id=request.key_id or "",
        request_id=request.request_id,
    )
    details = {
        "model": request.model.name,
        "lost": [{"worker": attempt.worker_id, "node": attempt.node, "ended": attempt.ended} for attempt in lost],
    }
    with acting(who):
        return audit.event("scheduler", "request.poisoned", request.request_id, details)


async def _tell(ctx: Context, event: RecordAudit) -> None:
    try:
        await ctx.bus.send(event, message_id=event.event_id)
    except Unavailable as error:
        log.warning("a given up request is not in the audit log", request_id=event.object, error=error.message)
