"""Limits as Redis counts them. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal

from libs.common import model_patterns
from libs.common.contracts.auth.identity import AppliedLimits

MINUTE: Final = 60
DAY: Final = 86_400

Unit = Literal["requests", "tokens", "streams"]


@dataclass(frozen=True)
class Check:
    """One limit, and what a request takes of it. ``admit.lua`` explains the kinds."""

    kind: Literal["window", "streams", "total"]
    unit: Unit
    key: str
    limit: int
    cost: int
    applied: AppliedLimits
    seconds: int
    """How long its period is; 0 for streams."""

    began_on: date | None = None
    """Of a total: the first day of its period."""

    ends_at: float = 0.0
    """Of a total, in seconds since the epoch."""

    def __str__(self) -> str:
        period = {0: "at once", MINUTE: "per minute", DAY: "per day"}.get(self.seconds, "per month")
        whose = f"models {self.applied.models}" if self.applied.scope == "model" else f"this {self.applied.scope}"
        return f"{self.limit} {self.unit} {period} for {whose}"


def checks(limits: Iterable[AppliedLimits], model: str | None, tokens: int, now: float) -> list[Check]:
    """All that count for a request to this model, which costs about so many tokens. None: to any model.

    A request that is larger than a whole limit fits when nothing else is used: it would never be admitted otherwise.
    """
    found: list[Check] = []
    for applied in limits:
        if model is None or model_patterns.matches(applied.models, model):
            found += _checks(applied, tokens, datetime.fromtimestamp(now, UTC).date())
    return found


def _checks(applied: AppliedLimits, tokens: int, today: date) -> Iterable[Check]:
    limits, whose = applied.limits, f"{applied.scope}:{applied.id}"
    if (most := limits.requests_per_minute) is not None:
        yield Check("window", "requests", f"omx:limit:requests:{whose}", most, 1, applied, MINUTE)
    if (most := limits.tokens_per_minute) is not None:
        yield Check("window", "tokens", f"omx:limit:tokens:{whose}", most, min(tokens, most), applied, MINUTE)
    if (most := limits.concurrent_streams) is not None:
        yield Check("streams", "streams", f"omx:limit:streams:{whose}", most, 1, applied, 0)
    if (most := limits.tokens_per_day) is not None:
        yield _total(applied, most, tokens, today, today + timedelta(days=1))
    if (most := limits.tokens_per_month) is not None:
        first = today.replace(day=1)
        yield _total(applied, most, tokens, first, (first + timedelta(days=31)).replace(day=1))


def _total(applied: AppliedLimits, most: int, tokens: int, first: date, after: date) -> Check:
    """``after``: the day that is not of this period any more."""
    ends_at = datetime.combine(after, datetime.min.time(), UTC).timestamp()
    key = f"omx:limit:{first}:{after}:{applied.scope}:{applied.id}"
    return Check("total", "tokens", key, most, min(tokens, most), applied, (after - first).days * DAY, first, ends_at)
