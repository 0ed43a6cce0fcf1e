"""What is left of limits, in Redis: one step for all limits of a request, right however many gateways there are."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import redis.asyncio as redis

from libs.common.limits.checks import Check
from libs.common.redis_client import Script

HERE: Final = Path(__file__)

SLOT_OUTLIVES_DEADLINE_SECONDS: Final = 10.0
RECORD_OUTLIVES_DEADLINE_SECONDS: Final = 3600.0
"""How late the books may learn what a request has cost."""

GUESS_SECONDS: Final = 60.0


def record_key(request_id: str) -> str:
    return f"omx:limit:request:{request_id}"


@dataclass(frozen=True)
class State:
    """Of one check: what is left, seconds until the request fits, seconds until something is given back."""

    check: Check
    left: int
    wait_seconds: float
    reset_seconds: float


@dataclass(frozen=True)
class Decision:
    states: Sequence[State]
    refused: Sequence[State]
    """By these. Empty: it was admitted."""

    unknown: Sequence[Check]
    """Totals that Redis does not know, because their period is new or it lost its memory: nothing was decided."""


@dataclass(frozen=True)
class Seed:
    """Where a total begins. One that is only a guess is forgotten soon."""

    tokens: int
    guessed: bool = False


class LimitStore:
    """Raises ``redis.RedisError`` while Redis is away; every call may be repeated safely."""

    def __init__(self, client: "redis.Redis", now: float | None = None) -> None:
        """``now``: for tests, instead of Redis's clock."""
        self._client = client
        self.now = now
        self._admit = Script(HERE.with_name("admit.lua"))
        self._settle = Script(HERE.with_name("settle.lua"))
        self._release = Script(HERE.with_name("release.lua"))

    async def admit(
        self, request_id: str, deadline: float, checks: Sequence[Check], seeds: Mapping[str, Seed] | None = None
    ) -> Decision:
        """Count the request under all of these, or under none. ``seeds``: by the key of what was unknown."""
        asked = {
            "take": True,
            "id": request_id,
            "expires_at": deadline + SLOT_OUTLIVES_DEADLINE_SECONDS,
            "kept_until": deadline + RECORD_OUTLIVES_DEADLINE_SECONDS,
        }
        return await self._ask(request_id, asked, checks, seeds or {})

    async def look(self, checks: Sequence[Check], seeds: Mapping[str, Seed] | None = None) -> Decision:
        """What is left of these."""
        return await self._ask("", {"take": False}, checks, seeds or {})

    async def release(self, request_id: str) -> None:
        """Its slots are free; what it has cost is settled later."""
        await self._release.run(self._client, [record_key(request_id)], [])

    async def settle(self, tokens: Mapping[str, int]) -> None:
        """Request ids and what they have really cost. Each counts once; unknown ones had no limits."""
        keys = [record_key(request_id) for request_id in tokens]
        await self._settle.run(self._client, keys, ["" if self.now is None else self.now, *tokens.values()])

    async def _ask(
        self, request_id: str, asked: dict[str, Any], checks: Sequence[Check], seeds: Mapping[str, Seed]
    ) -> Decision:
        listed = [_wire(check, seeds.get(check.key)) for check in checks]
        body = asked | {"checks": listed} | ({} if self.now is None else {"now": self.now})
        refused, unknown, told = await self._admit.run(
            self._client, [record_key(request_id)], [msgspec.json.encode(body)]
        )
        states = [
            State(check, max(0, left), wait_ms / 1000, reset_ms / 1000)
            for check, (left, wait_ms, reset_ms) in zip(checks, told, strict=True)
        ]
        return Decision(states, [states[number - 1] for number in refused], [checks[number - 1] for number in unknown])


def _wire(check: Check, seed: Seed | None) -> dict[str, Any]:
    wire: dict[str, Any] = {
        "kind": check.kind,
        "unit": check.unit,
        "key": check.key,
        "limit": check.limit,
        "cost": check.cost,
    }
    if check.kind == "total":
        wire["ends_at"] = check.ends_at
    if seed is not None:
        until = time.time() + GUESS_SECONDS if seed.guessed else check.ends_at
        wire |= {"seed": seed.tokens, "seeded_until": until}
    return wire
