"""Responses in the background: kept before they are answered, and made by whichever gateway has the time."""

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import uuid4

import structlog
from prometheus_client import Counter, Gauge
from starlette.datastructures import Headers

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.gateway import InferenceCancelled
from libs.common.contracts.permissions import Permission
from libs.common.contracts.tokens import Frame, StreamError
from libs.common.database import Transaction
from libs.common.errors import DeadlineExceeded, InvalidRequest, NotFound, RateLimited, ServiceError
from services.gateway.api.answer import whole_answer
from services.gateway.api.door import Call
from services.gateway.api.openai import wire
from services.gateway.api.openai.responses.preparing import prepare
from services.gateway.api.openai.responses.request import Asked
from services.gateway.api.openai.responses.shown import Reply
from services.gateway.api.openai.responses.story import PREFIX, Story
from services.gateway.context import Context
from services.gateway.durable.attempts import LONGEST_WAIT, Later, NoCallerError, act_for_owner, later
from services.gateway.durable.following import Following
from services.gateway.responses import keeping
from services.gateway.responses.gathering import Gathering
from services.gateway.responses.keeping import Opened, Told
from services.gateway.store import responses as store
from services.gateway.store.responses import StoredResponse

log = structlog.get_logger(__name__)

DEADLINE_SECONDS: Final = 86_400.0
"""For who names none."""

SHORTEST_SECONDS: Final = 0.1
"""Left for a request that begins just before its deadline."""

MOST_OPEN: Final = 1000
"""Of one organization."""

_ended = Counter("gateway_background_responses_total", "Responses in the background by what became of them", ["status"])


async def begin(
    ctx: Context, caller: Identity, asked: Asked, body: dict[str, Any], deadline_seconds: float | None
) -> StoredResponse:
    """Raises ``RateLimited``."""
    reply = Reply(asked, PREFIX + uuid4().hex, wire.created(), kept=True)
    sealed = await asyncio.to_thread(keeping.seal, ctx, reply.id, sealed_request=body)
    row = keeping.new_row(caller, reply, "queued", sealed, deadline_seconds or DEADLINE_SECONDS)
    async with ctx.db.transaction(caller.organization_id) as tx:
        if await store.open_count(tx, caller.organization_id) >= MOST_OPEN:
            raise RateLimited(f"your organization has {MOST_OPEN} responses that have not ended", retry_after=60)
        await store.insert(tx, row, ctx.settings.response_days)
    return row


async def cancel(ctx: Context, caller: Identity, response_id: str) -> Opened:
    """One that has ended stays as it is. Raises ``NotFound``, and ``InvalidRequest`` for what its caller waits for."""
    found = await keeping.find(ctx, caller, response_id, Permission.REQUEST_MANAGE)
    if not found.row.background:
        raise InvalidRequest("Only responses created with background=true can be cancelled.")
    if not found.row.ended:
        async with ctx.db.transaction(caller.organization_id) as tx:
            await store.cancel(tx, response_id)
        await ctx.bus.publish(InferenceCancelled(request_id=found.row.request_id))
        found = await keeping.find(ctx, caller, response_id, Permission.REQUEST_MANAGE)
    return found


@dataclass(frozen=True)
class Ended:
    response: dict[str, Any]
    told: Told | None
    """Of one that is streamed."""


class InBackground:
    """As a kind of durable work."""

    running = Gauge("gateway_background_responses_running", "Responses in the background under way")

    def most(self, ctx: Context) -> int:
        return ctx.settings.background_responses

    async def claim(self, tx: Transaction, by: str, seconds: float, not_of: Collection[str]) -> StoredResponse | None:
        return await store.claim(tx, by, seconds, not_of)

    async def run(self, ctx: Context, work: StoredResponse, following: Following) -> Ended | Later:
        late = work.deadline_at <= time.time()
        try:
            opened = await asyncio.to_thread(keeping.open_row, ctx, work)
        except NotFound:
            return Ended({"status": "failed"}, None)  # nobody can read it either
        except InvalidRequest as error:
            log.warning(
                "a response of another version of the gateway waits for it", response=work.id, why=error.message
            )
            return Ended({"status": "failed"}, None) if late else Later(LONGEST_WAIT, asked=False)
        frames: list[Frame] = []
        if late:
            return _failed(opened.reply, frames, DeadlineExceeded())
        try:
            response = await _answer(ctx, opened, following, frames)
            return Ended(response, Told(frames) if work.streams else None)
        except NoCallerError as refusal:
            return _failed(opened.reply, frames, refusal.error)
        except ServiceError as error:
            seen = work.streams and frames  # by readers of the stream: it cannot be taken back
            again = None if seen else later(error, following, work.losses)
            return again or _failed(opened.reply, frames, error)

    async def note(self, ctx: Context, by: str, work: StoredResponse, outcome: Ended | Later) -> None:
        if isinstance(outcome, Later):
            async with ctx.db.transaction(work.organization_id) as tx:
                await store.give_back(tx, by, work, wait=outcome.seconds, lost=outcome.lost, asked=outcome.asked)
            _ended.labels("later").inc()
            return
        status = outcome.response["status"]
        sealed = await asyncio.to_thread(keeping.seal, ctx, work.id, sealed_response=outcome.response)
        told = await asyncio.to_thread(keeping.seal_told, ctx, work.id, outcome.told) if outcome.told else None
        async with ctx.db.transaction(work.organization_id) as tx:
            if await store.finish(tx, work.id, status, sealed["sealed_response"], told):
                _ended.labels(status).inc()

    async def keep(self, tx: Transaction, by: str, works: Sequence[StoredResponse], seconds: float) -> Collection[str]:
        ids = [work.id for work in works]
        await store.keep_claims(tx, by, ids, seconds)
        return await store.stopped(tx, ids)


async def _answer(ctx: Context, opened: Opened, following: Following, frames: list[Frame]) -> dict[str, Any]:
    """Raises ``NoCallerError`` and ``ServiceError``."""
    row, reply = opened.row, opened.reply
    caller = await act_for_owner(
        ctx,
        organization=row.organization_id,
        user_id=row.user_id,
        key_id=row.key_id,
        request_id=following.request_id,
    )
    gathering = Gathering(replace(ctx, start_inference=following), lambda _id: reply, frames=frames)
    call = Call(
        ctx=replace(ctx, start_inference=gathering),
        caller=caller,
        headers=Headers(),
        scope={"method": "POST", "path": "/v1/responses"},
        body=opened.body,
        priority="batch",
        deadline_seconds=min(
            max(row.deadline_at - time.time(), SHORTEST_SECONDS), ctx.settings.request_deadline_seconds
        ),
    )
    try:
        await whole_answer(call, *await prepare(call, reply.asked))
    except ServiceError:
        raise
    except Exception as error:
        log.exception("a response in the background crashed", response=row.id)
        raise ServiceError from error
    return gathering.response


def _failed(reply: Reply, frames: Sequence[Frame], error: ServiceError) -> Ended:
    story = Story(reply)
    for frame in frames:
        story.hear(frame)
    for _event in story.fail(error):
        pass
    told = Told(list(frames), StreamError(error.code, error.message)) if reply.asked.stream else None
    return Ended(story.response, told)
