"""Who waits. The one replica that has the waiting set writes it to Redis, where every replica can read it."""

import asyncio
import time
from collections import Counter
from itertools import islice
from typing import Any, Final

import msgspec
import structlog
from redis.exceptions import RedisError

from libs.common.contracts.inference import Kind, Priority
from libs.common.contracts.scheduler.queue import OrganizationQueue, QueueState, WaitingRequest
from libs.common.errors import Unavailable
from services.scheduler import placement
from services.scheduler.context import Context
from services.scheduler.waiting import Lane, Waiting

log = structlog.get_logger(__name__)

KEY: Final = "omx:waiting"
WRITE_SECONDS: Final = 0.5
TTL_SECONDS: Final = 5
MOST_SHOWN: Final = 2000
"""Requests that have a position; of those behind them only the number is known."""

BUSY_SHARE: Final = 0.05
"""Of the time, at most, that writing takes: when very many wait, what is shown is older."""

MOST_LISTED: Final = 200

MOST_LANES: Final = 10
MOST_WORKERS: Final = 100
"""Of so many it is told what keeps them from running what waits, in so many lanes."""


class Entry(msgspec.Struct, array_like=True, frozen=True):
    id: str
    organization_id: str
    user_id: str | None
    key_id: str | None
    model: str
    kind: Kind
    priority: Priority
    accepted_at: float
    attempt_count: int
    position: int
    estimated_wait_seconds: float | None
    lane: int


class Board(msgspec.Struct, array_like=True, frozen=True):
    """The waiting set as it was at most a second ago."""

    entries: list[Entry] = []
    organizations: dict[str, tuple[int, float]] = {}
    """How many wait, and when the first of them was accepted."""

    refusals: list[dict[str, int]] = []
    """Of the first lanes: how many workers each rule keeps from running what waits there."""

    def refused_by(self, entry: Entry) -> dict[str, int]:
        return self.refusals[entry.lane] if entry.lane < len(self.refusals) else {}


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Board)


async def show(ctx: Context) -> None:
    """Background loop. A replica that stands by has nobody waiting, and writes nothing."""
    shown, took = False, 0.0
    while True:
        await asyncio.sleep(max(WRITE_SECONDS, took / BUSY_SHARE))
        if not ctx.waiting and not shown:
            continue
        began = time.monotonic()
        try:
            await write(ctx)
            took = time.monotonic() - began
            shown = bool(ctx.waiting)
        except RedisError as error:
            log.warning("could not show who waits", error=str(error))


async def write(ctx: Context) -> None:
    await ctx.redis.set(KEY, _encoder.encode(compose(ctx, time.monotonic())), ex=TTL_SECONDS)


def compose(ctx: Context, now: float) -> Board:
    """Positions are among requests for the same runner, in the order to be expected if nobody else came."""
    entries: list[Entry] = []
    firsts: dict[Lane, tuple[int, Waiting]] = {}
    ahead: Counter[str] = Counter()
    for waiting in islice(ctx.waiting.in_order(), MOST_SHOWN):
        request = waiting.request
        runner = request.model.runner
        lane, _ = firsts.setdefault(waiting.lane, (len(firsts), waiting))
        entries.append(
            Entry(
                id=request.request_id,
                organization_id=request.organization_id,
                user_id=request.user_id,
                key_id=request.key_id,
                model=request.model.name,
                kind=request.kind,
                priority=request.priority,
                accepted_at=request.accepted_at,
                attempt_count=len(request.attempts),
                position=ahead[runner] + 1,
                estimated_wait_seconds=ctx.throughput.wait_seconds(runner, ahead[runner], now),
                lane=lane,
            )
        )
        ahead[runner] += 1
    organizations = {name: (count, oldest.request.accepted_at) for name, count, oldest in ctx.waiting.by_organization()}
    refusals = [_refusals(ctx, first) for _, first in islice(firsts.values(), MOST_LANES)]
    return Board(entries, organizations, refusals)


def _refusals(ctx: Context, waiting: Waiting) -> dict[str, int]:
    return placement.refusals(
        waiting.request,
        ctx.fleet,
        islice(ctx.fleet, MOST_WORKERS),
        alone=waiting.lane.alone,
        wait_seconds=waiting.wait_seconds(time.time()),
        breaker=ctx.breaker,
    )


async def read(ctx: Context) -> Board:
    """Raises ``Unavailable``."""
    try:
        value: Any = await ctx.redis.get(KEY)
    except RedisError as error:
        raise Unavailable from error
    return _decoder.decode(value) if value is not None else Board()


async def state(ctx: Context, organization: str | None, own_organization: str, user_id: str) -> QueueState:
    """``organization`` None: of all. The requests are the user's own in ``own_organization``."""
    board = await read(ctx)
    organizations = tuple(
        OrganizationQueue(organization_id=name, waiting=waiting, oldest_accepted_at=oldest)
        for name, (waiting, oldest) in sorted(board.organizations.items())
        if organization in (None, name)
    )
    own = [entry for entry in board.entries if (entry.organization_id, entry.user_id) == (own_organization, user_id)]
    return QueueState(
        waiting=sum(each.waiting for each in organizations),
        organizations=organizations,
        requests=tuple(
            WaitingRequest.model_validate({**msgspec.structs.asdict(entry), "refused_by": board.refused_by(entry)})
            for entry in own[:MOST_LISTED]
        ),
    )
