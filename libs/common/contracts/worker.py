"""What workers obey and announce."""

from typing import ClassVar, Literal

from pydantic import Field

from libs.common.contracts.inference import EngineName, Kind, ModelDetails, RunningRequest
from libs.common.contracts.message import Command, Event, Value
from libs.common.contracts.scheduler.inference import AttemptRecord, RequestInference


class RunInference(Command):
    """A grant. The worker keeps the delivery unacknowledged while it runs: the broker is the lease.

    The last of ``request.attempts`` is this one.
    """

    to_instance: ClassVar[bool] = True
    returns_to: ClassVar[type[Command] | None] = RequestInference
    lease_ttl_seconds: ClassVar[float] = 0.5

    request: RequestInference
    epoch: int = Field(description="1 for the first grant; a higher one fences every lower one")
    granted_at: float
    others: bool = Field(
        False, description="another worker could load the model: if it fails here, hand the request back"
    )


class InferenceFinished(Event):
    """The final frame is in the token log. Journalled and billed exactly once, by ``request_id``.

    Told by the worker that ran it; by the scheduler, if none did or if it died first: the same, but for the times.
    """

    request_id: str
    epoch: int
    worker_id: str = Field(description="empty: none ran it, or it died before it could tell")
    organization_id: str
    user_id: str | None = None
    key_id: str | None = None
    model: str
    runner: str = Field("", description="``ModelRef.runner``")
    kind: Kind
    outcome: Literal["done", "failed", "cancelled"]
    done_reason: str = ""
    error_code: str | None = None
    error_message: str = Field("", description="of a model that could not be loaded")
    prompt_tokens: int = 0
    completion_tokens: int = 0
    accepted_at: float
    granted_at: float = Field(description="0: never")
    first_token_at: float | None = None
    finished_at: float
    attempts: tuple[AttemptRecord, ...] = ()


class ModelInUse(Value):
    """A name under which a model in memory was asked for."""

    name: str
    digest: str
    details: ModelDetails = ModelDetails()
    organization_id: str = "default"
    shared: bool = False


class LoadedModel(Value):
    """A model in a worker's memory; ``expires_at`` None means for ever."""

    name: str
    digest: str
    runner: str = Field("", description="``ModelRef.runner``")
    details: ModelDetails = ModelDetails()
    size: int = 0
    size_vram: int = 0
    context_length: int = 0
    slots: int = 1
    running: int = 0
    expires_at: float | None = None
    used_as: tuple[ModelInUse, ...] = Field(
        (), description="by whom else it is known; models of the same files share it"
    )


class VirtualModel(Value):
    """Names a worker serves without weights of ours: an upstream's models, or the echo engine's."""

    pattern: str = Field(description="shell-style: mock-*")
    engine: EngineName
    capabilities: tuple[str, ...] = ("completion", "embedding")
    context_length: int = 0


class KeepAliveChanged(Event):
    """A request said how long its model stays in memory: every worker that has it in memory does the same."""

    worker_id: str = Field(description="who has done so already")
    runner: str = Field(description="``ModelRef.runner``")
    seconds: float = Field(description="after it was last used; negative: for ever")


class WorkerHeartbeat(Event):
    """Every second, and at once when something changes."""

    worker_id: str = Field(description="one process: a restarted worker has a new one")
    node: str
    state: Literal["active", "draining", "offline"] = "active"
    engines: tuple[EngineName, ...] = ()
    slots: int = Field(description="requests this worker runs at once, over all models")
    slots_per_model: int
    max_loaded_models: int
    context_length: int = Field(0, description="of a model loaded for who does not say, in tokens; 0: not known")
    max_context_length: int = Field(1 << 30, description="no model is loaded with a longer one, in tokens")
    cpus: int = Field(0, description="of the machine; 0: not known")
    memory_bytes: int = Field(0, description="of the machine; 0: not known")
    memory_available_bytes: int = Field(0, description="that a model could take now; 0: not known")
    region: str = Field("", description="where the machine stands, as the worker was told")
    zone: str = ""
    loaded: tuple[LoadedModel, ...] = ()
    running: tuple[RunningRequest, ...] = ()
    virtual_models: tuple[VirtualModel, ...] = ()
    marks: tuple[str, ...] = Field((), description="of the events this heartbeat answers")
    sent_at: float
