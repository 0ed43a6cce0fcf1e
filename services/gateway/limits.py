"""A request and its caller's limits: admitted or refused, and what is left for the answer to tell.

Limits protect money, and inference does nothing without Redis: while it is away, limited callers are refused too. While
auth is away, a day or month that Redis does not know begins at nothing, and is asked for again a minute later.
"""

import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import structlog
from prometheus_client import Counter
from redis.exceptions import RedisError

from libs.common.bus.base import Bus
from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.auth.usage import CountTokens, Span
from libs.common.errors import RateLimited, Unavailable
from libs.common.limits.checks import Check, checks
from libs.common.limits.store import Decision, LimitStore, Seed, State
from services.gateway.estimate import Estimate

log = structlog.get_logger(__name__)

ASK_SECONDS: Final = 2.0
MOST_ASKED: Final = 5

_refused = Counter("gateway_limited_total", "Requests refused by a limit", ["scope", "unit"])


class LimitReached(RateLimited):
    """too many requests"""

    def __init__(self, by: State, states: Sequence[State]) -> None:
        """``states``: of all limits of the request, ``by`` among them."""
        wait = math.ceil(by.wait_seconds)
        super().__init__(f"limit reached: {by.check}; try again in {wait} s", retry_after=by.wait_seconds)
        self.by = by
        self.states = [by, *_nearest_first(state for state in states if state.check is not by.check)]

    @property
    def of_a_day_or_month(self) -> bool:
        """Trying again soon does not help."""
        return self.by.check.kind == "total"


class Allowance:
    """An admitted request of a limited caller. ``states``: of its limits then, the nearest first."""

    def __init__(self, store: LimitStore, request_id: str, states: Sequence[State], prompt_tokens: int = 0) -> None:
        self.states = _nearest_first(states)
        self.settled = False
        self._store = store
        self._request_id = request_id
        self._totals = [state for state in states if state.check.kind == "total"]
        self._used = prompt_tokens
        self._room = min((_room(state) for state in self._totals), default=math.inf)

    def use(self, tokens: int) -> None:
        """Of its answer. Raises ``LimitReached`` once it has used all that was left of a day or month when it came."""
        self._used += tokens
        if self._used > self._room:
            by = min(self._totals, key=_room)
            _refused.labels(by.check.applied.scope, by.check.unit).inc()
            raise LimitReached(replace(by, left=0, wait_seconds=by.reset_seconds), self.states)

    async def settle(self, tokens: int) -> None:
        """It has ended: its slots are free when this returns."""
        self.settled = True
        await self._or_later(self._store.settle({self._request_id: tokens}))

    async def release(self) -> None:
        """Nobody listens to it any more: its slots are free; its tokens are settled when it has really ended."""
        await self._or_later(self._store.release(self._request_id))

    async def _or_later(self, told: Awaitable[None]) -> None:
        try:
            await told
        except RedisError as error:
            log.warning("the journal will settle a request", request_id=self._request_id, error=str(error))


class Limiter:
    def __init__(self, bus: Bus, store: LimitStore) -> None:
        self._bus = bus
        self._store = store

    async def admit(
        self, caller: Identity, model: str, expected: Estimate, request_id: str, deadline: float
    ) -> Allowance | None:
        """None for who has no limits. Raises ``LimitReached``, and ``Unavailable`` while Redis is away."""
        found = checks(caller.limits, model, expected.total, time.time())
        if not expected.is_stream:
            found = [check for check in found if check.kind != "streams"]
        if not found:
            return None
        decision = await self._decide(caller, lambda seeds: self._store.admit(request_id, deadline, found, seeds))
        if decision.refused:
            by = max(decision.refused, key=lambda state: state.wait_seconds)
            _refused.labels(by.check.applied.scope, by.check.unit).inc()
            raise LimitReached(by, decision.states)
        return Allowance(self._store, request_id, decision.states, expected.prompt)

    async def give_back(self, request_id: str) -> None:
        """Of a request that never began, whatever was counted."""
        await Allowance(self._store, request_id, ()).settle(0)

    async def left(self, caller: Identity) -> Sequence[State]:
        """Of all limits that count for this caller. Raises ``Unavailable``."""
        found = checks(caller.limits, None, 0, time.time())
        if not found:
            return ()
        return (await self._decide(caller, lambda seeds: self._store.look(found, seeds))).states

    async def _decide(self, caller: Identity, ask: Callable[[Mapping[str, Seed]], Awaitable[Decision]]) -> Decision:
        """While anything is unknown, nothing was decided: Redis may lose more of its memory while we ask."""
        seeds: dict[str, Seed] = {}
        try:
            for _ in range(MOST_ASKED):
                decision = await ask(seeds)
                if not decision.unknown:
                    return decision
                seeds |= await self._seeds(caller, decision.unknown)
        except RedisError as error:
            raise Unavailable from error
        raise Unavailable("limits cannot be counted now")

    async def _seeds(self, caller: Identity, unknown: Sequence[Check]) -> dict[str, Seed]:
        """What the ledger says. A request that ends just now may be missing, or counted twice."""
        spans = tuple(_span(caller, check) for check in unknown)
        try:
            used = await self._bus.ask(
                CountTokens(organization_id=caller.organization_id, spans=spans), timeout=ASK_SECONDS
            )
        except Unavailable:
            log.warning("totals of tokens begin at nothing while auth is away", organization=caller.organization_id)
            return {check.key: Seed(0, guessed=True) for check in unknown}
        return {check.key: Seed(tokens) for check, tokens in zip(unknown, used, strict=True)}


def _span(caller: Identity, check: Check) -> Span:
    assert check.began_on is not None
    return Span(
        since=check.began_on,
        user_id=caller.user_id if check.applied.scope == "user" else None,
        key_id=caller.key_id if check.applied.scope == "key" else None,
        models=check.applied.models,
    )


def _nearest_first(states: Iterable[State]) -> list[State]:
    return sorted(states, key=lambda state: state.left / state.check.limit)


def _room(state: State) -> int:
    """What the request may use in all: what it was counted with is its own."""
    return state.left + state.check.cost
