"""What answers tell of their caller's limits, in the headers that each dialect's clients read."""

import math
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from libs.common.limits.checks import Unit
from libs.common.limits.store import State

MOST_POLICIES: Final = 20
"""Told in headers; those of models may be many."""

_UNITS: Final[tuple[Unit, ...]] = ("requests", "tokens")


def standard(limits: Sequence[State]) -> dict[str, str]:
    """As draft-ietf-httpapi-ratelimit-headers-06: the limit that is nearest, which comes first, and the policies."""
    if not limits:
        return {}
    nearest = limits[0]
    policies = [
        f'{check.limit};w={check.seconds};comment="{check.unit} of the {check.applied.scope}"'
        for check in (state.check for state in limits)
        if check.kind != "streams"
    ]
    headers = {
        "RateLimit-Limit": str(nearest.check.limit),
        "RateLimit-Remaining": str(nearest.left),
        "RateLimit-Reset": str(math.ceil(_reset_seconds(nearest))),
    }
    return headers | ({"RateLimit-Policy": ", ".join(policies[:MOST_POLICIES])} if policies else {})


def openai(limits: Sequence[State]) -> dict[str, str]:
    """As OpenAI: the nearest limit of requests and that of tokens; until they reset as Go writes durations."""
    headers = {}
    for unit, state in _nearest(limits):
        headers[f"x-ratelimit-limit-{unit}"] = str(state.check.limit)
        headers[f"x-ratelimit-remaining-{unit}"] = str(state.left)
        headers[f"x-ratelimit-reset-{unit}"] = _go_duration(_reset_seconds(state))
    return headers


def anthropic(limits: Sequence[State]) -> dict[str, str]:
    """As Anthropic: the nearest limit of requests and that of tokens; when they reset in RFC 3339."""
    headers, now = {}, time.time()
    for unit, state in _nearest(limits):
        reset = datetime.fromtimestamp(math.ceil(now + _reset_seconds(state)), UTC)
        headers[f"anthropic-ratelimit-{unit}-limit"] = str(state.check.limit)
        headers[f"anthropic-ratelimit-{unit}-remaining"] = str(state.left)
        headers[f"anthropic-ratelimit-{unit}-reset"] = f"{reset:%Y-%m-%dT%H:%M:%SZ}"
    return headers


def _nearest(limits: Sequence[State]) -> Iterator[tuple[Unit, State]]:
    """``limits`` as they come, the nearest first. These dialects know nothing of streams at once."""
    for unit in _UNITS:
        for state in limits:
            if state.check.unit == unit:
                yield unit, state
                break


def _reset_seconds(state: State) -> float:
    """A limit that nothing was taken of yet is whole again a period after the first request."""
    return state.reset_seconds or state.check.seconds


def _go_duration(seconds: float) -> str:
    """As 250ms, 1s, 6m0s or 1h0m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, left = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{left}s"
    return f"{minutes}m{left}s" if minutes else f"{left}s"
