"""What the gateway announces."""

from pydantic import Field

from libs.common.contracts.message import Event


class InferenceCancelled(Event):
    """Nobody waits for this request any more: whoever holds it lets go of it."""

    request_id: str


class ModelUnloadRequested(Event):
    """Every worker that has this model in memory drops it once it is idle."""

    name: str
    runner: str = Field("", description="``ModelRef.runner``")
    mark: str = Field("", description="every worker's next heartbeat, once that is done, carries it")


class HeartbeatRequested(Event):
    """Somebody asks what is in memory now: every worker says so at once."""

    mark: str = Field(description="carried by the heartbeat that answers")


class OperationCancelled(Event):
    """Nobody waits for this pull, push or create any more."""

    operation_id: str
