"""A request on its way to a worker, and what became of its grants."""

from typing import Final, Literal

from pydantic import Field

from libs.common.contracts.inference import Kind, ModelRef, Priority
from libs.common.contracts.message import Command, Event, Value

AttemptEnd = Literal[
    "done",
    "failed",
    "cancelled",
    "worker_lost",
    "worker_silent",
    "engine_failed",
    "broker_lost",
    "not_taken",
    "preempted",
    "drained",
    "load_failed",
    "upstream_failed",
]
"""``worker_lost``: its connection closed; ``broker_lost``: everybody's did, so that nobody knows whose fault it was;
``not_taken``: its worker was gone before it came; ``upstream_failed``: the server its worker asks did not answer."""


LOSSES: Final[frozenset[AttemptEnd]] = frozenset({"worker_lost", "worker_silent", "engine_failed"})
"""The request itself may be the cause: after too many of them it is given up."""


class Attempt(Value):
    """What an attempt's record and its details both say."""

    epoch: int
    worker_id: str
    node: str = ""
    granted_at: float
    ended_at: float | None = None
    ended: AttemptEnd | None = None
    message: str = Field("", description="why its model could not be loaded, or its upstream failed")


class AttemptRecord(Attempt):
    """One grant of a request. Times are seconds since the epoch; what has not happened yet is null."""

    traceparent: str | None = Field(None, description="of the span of its grant: later attempts are linked to it")
    decision_json: str = Field("", repr=False, description="a ``Decision``: why this worker; empty: not kept")


class RequestInference(Command):
    """Run this when it is its turn. Answered in the token log of ``request_id``, never here.

    A worker that hands back what it runs sends it again, with the attempt that has ended.
    """

    request_id: str
    organization_id: str
    user_id: str | None = None
    key_id: str | None = None
    model: ModelRef
    kind: Kind
    num_ctx: int = Field(0, description="context it asks for, in tokens; 0: it does not say")
    priority: Priority = "interactive"
    prompt_tokens: int = Field(0, description="estimated from the length of its text")
    answer_tokens: int = Field(0, description="what it asks for at most, or a likely number")
    organization_weight: float = Field(1.0, description="share of its organization among all")
    key_weight: float = Field(1.0, description="share of its key, or user, within the organization")
    prefix: tuple[int, ...] = Field((), description="hashes of its beginning, each of all text up to there, salted")
    attempts: tuple[AttemptRecord, ...] = Field(
        (), description="grants up to now, the last one being what came to an end"
    )
    accepted_at: float = Field(description="seconds since the epoch")
    deadline: float = Field(description="seconds since the epoch; not started or not finished by then, it fails")
    channel: str = Field(description="pub/sub channel of the gateway that follows")
    task_json: str | None = Field(None, description="an InferenceTask as JSON; None if it is stored by reference")

    @property
    def handed_back(self) -> bool:
        """Its worker could not go on with it."""
        return bool(self.attempts) and self.attempts[-1].ended is not None

    def after(self, ended: AttemptEnd, at: float, message: str = "") -> "RequestInference":
        """The same with its last attempt having ended so, unless that is known already."""
        if not self.attempts or self.handed_back:
            return self
        last = self.attempts[-1].model_copy(update={"ended": ended, "ended_at": at, "message": message})
        return self.model_copy(update={"attempts": (*self.attempts[:-1], last)})


class InferencePreempted(Event):
    """Somebody interactive needs its slot: its worker stops at the next token and hands the request back."""

    request_id: str
    epoch: int
