"""Who waits, and how it all goes."""

from pydantic import Field

from libs.common.contracts.inference import Kind, Priority
from libs.common.contracts.message import Query, Value


class WaitingRequest(Value):
    id: str
    organization_id: str
    user_id: str | None = None
    key_id: str | None = None
    model: str
    kind: Kind
    priority: Priority
    accepted_at: float
    attempt_count: int = 0
    position: int = Field(description="among those for the same model, as far as it can be told; 1 is next")
    estimated_wait_seconds: float | None = Field(
        None, description="from what runs now and how long such requests took; null: nobody can tell"
    )
    refused_by: dict[str, int] = Field({}, description="how many workers each rule keeps from running it now")


class OrganizationQueue(Value):
    organization_id: str
    waiting: int
    oldest_accepted_at: float = Field(description="seconds since the epoch")


class QueueState(Value):
    waiting: int = Field(description="requests of these organizations without a worker yet")
    organizations: tuple[OrganizationQueue, ...] = ()
    requests: tuple[WaitingRequest, ...] = Field((), description="the caller's own, the next ones first")


class GetQueue(Query[QueueState]):
    organization_id: str | None = Field(description="null: of all")
    user_id: str = Field(description="whose requests are listed")


class Quantiles(Value):
    """In seconds."""

    p50: float
    p95: float


class SystemStats(Value):
    """What ended within the window, and what is now."""

    window_seconds: float
    requests: int
    done: int
    failed: int
    cancelled: int
    requests_per_minute: float
    prompt_tokens_per_second: float
    completion_tokens_per_second: float
    time_to_first_token: Quantiles | None = Field(None, description="from accepting a request; null: none had one")
    duration: Quantiles | None = Field(None, description="from accepting a request to its end")
    running: int
    waiting: int
    nodes: int = Field(description="that are heard")
    workers: int
    slots: int


class GetStats(Query[SystemStats]):
    """Over all organizations."""

    window_seconds: float
