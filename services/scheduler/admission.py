"""Who may wait: bounds of the waiting set, and refusals of those whose turn would come too late. Pure."""

from typing import Final

from libs.common.errors import Overloaded, ServiceError
from services.scheduler.settings import Settings
from services.scheduler.waiting import Waiting, WaitingSet

IDLE_SHARE: Final = 0.25
"""Of the room that requests of class idle may take, beside what the others have."""

LEAST_RETRY_SECONDS: Final = 1.0
MOST_RETRY_SECONDS: Final = 300.0
USUAL_RETRY_SECONDS: Final = 5.0
"""When nobody can tell."""


def full(waiting: Waiting, others: WaitingSet, settings: Settings) -> bool:
    """Is there no room for one more? Those of class idle take none from the others."""
    if waiting.request.priority == "idle":
        count, tokens, share = others.count("idle"), others.tokens("idle"), IDLE_SHARE
    else:
        count = others.count("interactive") + others.count("batch")
        tokens, share = others.tokens("interactive") + others.tokens("batch"), 1.0
    # One that is bigger than all the room may wait alone.
    too_many_tokens = tokens > 0 and tokens + waiting.tokens > share * settings.max_waiting_tokens
    return count >= share * settings.max_waiting or too_many_tokens


def overloaded(estimated_wait_seconds: float | None) -> ServiceError:
    wait = USUAL_RETRY_SECONDS if estimated_wait_seconds is None else estimated_wait_seconds
    return Overloaded(retry_after=_bounded(wait))


def hopeless(waiting: Waiting, now: float) -> ServiceError | None:
    """Its turn would come after its deadline: better to say so now, and when the queue will be short enough."""
    estimate, left = waiting.estimated_wait_seconds, waiting.request.deadline - now
    if estimate is None or estimate <= left:
        return None
    message = f"server busy: its turn would come in about {estimate:.0f} s, after the deadline of the request"
    return Overloaded(message, retry_after=_bounded(estimate - left))


def _bounded(seconds: float) -> float:
    return round(min(max(seconds, LEAST_RETRY_SECONDS), MOST_RETRY_SECONDS), 1)
