"""What the gateway announces."""

from libs.common.contracts.message import Event


class InferenceCancelled(Event):
    """Nobody waits for this request any more: whoever holds it lets go of it."""

    request_id: str


class ModelUnloadRequested(Event):
    """Every worker that has this model in memory drops it once it is idle."""

    name: str
    digest: str
