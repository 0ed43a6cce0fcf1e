"""A piece of work is tried until it has an answer: for whom, and which errors are no answer."""

from dataclasses import dataclass
from typing import Final

from libs.common import actor
from libs.common.contracts.auth.identity import DescribeCaller, Identity
from libs.common.contracts.permissions import Permission
from libs.common.errors import (
    DeadlineExceeded,
    Forbidden,
    Overloaded,
    RateLimited,
    ReplayDiverged,
    RequestCancelled,
    ServiceError,
    StreamLost,
    Unauthenticated,
    Unavailable,
)
from services.gateway.context import Context
from services.gateway.durable.following import Following
from services.gateway.limits import LimitReached
from services.gateway.permissions import check

NO_ROOM: Final = (RateLimited, Overloaded, Unavailable)
"""The work waits."""

LOST: Final = (StreamLost, ReplayDiverged, RequestCancelled)
"""Nothing is wrong with the request: it is asked again."""

MOST_LOSSES: Final = 20
"""Of a piece of work. One more is its answer."""

SHORTEST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 60.0


@dataclass(frozen=True)
class Later:
    """When it has waited for so long: as a new request, unless it was not even ``asked``: one may run already."""

    seconds: float = 0.0
    lost: bool = False
    asked: bool = True


def later(error: ServiceError, following: Following, losses: int) -> Later | None:
    """None for what is the answer, as it is when a quota runs out in the middle: the half of it is paid for."""
    if isinstance(error, LimitReached) and following.began:
        return None
    if isinstance(error, NO_ROOM):
        wait = min(max(error.retry_after or SHORTEST_WAIT, SHORTEST_WAIT), LONGEST_WAIT)
        return Later(wait, asked=following.asked)
    lost = isinstance(error, LOST) and losses < MOST_LOSSES
    never_began = isinstance(error, DeadlineExceeded) and not following.began
    return Later(lost=lost) if lost or never_began else None


class NoCallerError(Exception):
    """Who asked for the work may not run requests any more."""

    def __init__(self, error: ServiceError) -> None:
        super().__init__(error.message)
        self.error = error


async def act_for_owner(
    ctx: Context, *, organization: str, user_id: str, key_id: str | None, request_id: str
) -> Identity:
    """With the rights of now. From here on this task acts for them. Raises ``NoCallerError`` and ``ServiceError``."""
    actor.become(actor.Actor(organization_id=organization, user_id=user_id, key_id=key_id or "", request_id=request_id))
    try:
        caller = await ctx.bus.ask(DescribeCaller())
        check(caller, Permission.INFERENCE_RUN)
    except (Unauthenticated, Forbidden) as error:
        raise NoCallerError(error) from None
    return caller
