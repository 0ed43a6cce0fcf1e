"""Why a request went where it went."""

from typing import Any

from pydantic import Field

from libs.common.contracts.message import Value
from libs.common.contracts.scheduler.inference import Attempt


class Candidate(Value):
    """A worker that was looked at for a request, as it was then."""

    worker_id: str
    node: str = ""
    facts: dict[str, Any] = Field({}, description="what the rules were told of it")
    refused_by: str | None = Field(None, description="the first rule that it did not pass")
    scores: dict[str, float] = {}


class Decision(Value):
    """Why a request got this worker, then. From ``request`` and the facts of the candidates it follows again."""

    at: float = Field(description="seconds since the epoch")
    waited_seconds: float
    position: int | None = Field(None, description="at arrival; null: it did not wait")
    estimated_wait_seconds: float | None = Field(None, description="at arrival")
    counters: dict[str, float] = Field({}, description="of fair sharing: of its organization, its key, the least one")
    request: dict[str, Any] = Field({}, description="what the rules were told of the request")
    considered: int = Field(0, description="workers there were; of many only some are looked at")
    candidates: tuple[Candidate, ...] = ()
    chosen: str | None = Field(None, description="worker id")


class AttemptDetails(Attempt):
    """One grant of a request. Times are seconds since the epoch; what has not happened yet is null."""

    decision: Decision | None = None
