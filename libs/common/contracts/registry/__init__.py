"""What the registry answers and announces."""

from typing import Any, Literal

from pydantic import Field

from libs.common.contracts.exports import ExportedRows
from libs.common.contracts.inference import ChatMessage, ModelDetails, ModelRef
from libs.common.contracts.message import Command, Event, Query, Value


class ModelSummary(Value):
    """One row of the model list."""

    name: str
    digest: str
    size: int
    modified_at: float
    details: ModelDetails
    capabilities: tuple[str, ...] = ()


class ModelDescription(Value):
    """Everything ``show`` tells."""

    name: str
    modified_at: float
    details: ModelDetails
    model_info: dict[str, Any]
    capabilities: tuple[str, ...]
    template: str = ""
    system: str = ""
    parameters: dict[str, Any] = {}
    license: str = ""
    messages: tuple[ChatMessage, ...] = ()
    weights: str | None = Field(None, description="path of the GGUF on the registry's disk")
    projector: str | None = Field(None, description="a path, too")
    adapters: tuple[str, ...] = Field((), description="paths, too")
    projector_info: dict[str, Any] = {}
    tensors: tuple[dict[str, Any], ...] = ()
    requires: str = Field("", description="the least version of Ollama that can run it")


class ModelVersion(Value):
    """What a name points to, or pointed to before."""

    name: str
    digest: str = Field(description="sha256 of the manifest, 64 hex digits")
    size: int
    created_at: float
    current: bool


class Progress(Value):
    """One line of a pull, push or create, as Ollama's clients read it. Sizes in bytes; zeros are left out there."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


class Failure(Value):
    """A ``ServiceError``: its code and message."""

    code: str
    message: str


class BlobPeer(Value):
    """A worker that has the blob, and what it wants to be shown for it during the next minutes."""

    url: str
    token: str = Field(repr=False)


class BlobLocation(Value):
    """Where a blob's bytes are: a range-request URL and, for a process on the same disk, its path."""

    url: str
    path: str
    size: int
    peers: tuple[BlobPeer, ...] = Field((), description="workers to ask first")


class CachedBlob(Value):
    """A blob on a node's disk, whole or on its way. Sizes in bytes, times in seconds since the epoch."""

    digest: str
    size: int
    completed: int
    verified_at: float | None = Field(None, description="None: it is not whole")
    damaged_at: float | None = Field(None, description="when it was last found damaged")
    error: str = Field("", description="why it could not be fetched")


class CachePlan(Value):
    """What a node should fetch and what it may delete: digests."""

    fetch: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


class Replica(Value):
    """A model on a node's disk."""

    node: str = Field(description="empty for who may not know of nodes")
    state: Literal["syncing", "ready", "failed", "deleted"]
    size: int
    completed: int
    health: float = Field(description="from 0 to 1: how its last verifications went")
    verified_at: float | None
    heard_at: float | None = Field(description="when the node last reported")
    error: str = ""


class ResolveModel(Query[ModelRef]):
    """``ModelNotFound`` if there is none of this name; ``InvalidModelName`` if it is not a name."""

    name: str


class ListModels(Query[tuple[ModelSummary, ...]]):
    """Newest first."""


class NamesOfDigest(Query[tuple[str, ...]]):
    """The models that have this blob, or are this manifest, as far as the caller's organization sees them."""

    digest: str


class DescribeModel(Query[ModelDescription]):
    name: str
    verbose: bool = False


class LocateBlob(Query[BlobLocation]):
    """``NotFound`` if the registry has no such blob."""

    digest: str
    node: str = Field("", description="who asks: it is not told of itself")


class ReportCache(Query[CachePlan]):
    """All that a node has. Its workers ask when something changed, and now and then."""

    node: str
    worker_id: str
    peer_url: str = Field(description="where this worker serves its blobs")
    peer_key: str = Field(repr=False, description="tokens for this worker are signed with it")
    blobs: tuple[CachedBlob, ...]


class ReplicateModel(Query[tuple[Replica, ...]]):
    """See that the model is on ``count`` nodes. ``model``: its name or digest.

    ``ModelNotFound``; ``Forbidden`` for one of another organization; ``InvalidRequest`` if there are not so many nodes,
    or if the model has no files.
    """

    model: str
    count: int


class ListReplicas(Query[tuple[Replica, ...]]):
    """``ModelNotFound``. ``model``: its name or digest; for the operating organization also of a deleted one."""

    model: str


class CopyModel(Query[None]):
    """``ModelNotFound``, ``InvalidModelName``. The copy shares its layers."""

    source: str
    destination: str


class DeleteModel(Query[None]):
    """Layers that other models or kept versions need stay.

    ``ModelNotFound``, ``InvalidModelName``; ``Forbidden`` for one of another organization.
    """

    name: str
    on_its_way: bool = Field(False, description="give it up as well if it is being added, or forget that it failed")


class ListVersions(Query[tuple[ModelVersion, ...]]):
    """Newest first. ``ModelNotFound``, ``InvalidModelName``."""

    name: str


class RollBack(Query[ModelVersion]):
    """Make the name point to an earlier version again. ``NotFound`` if it has none of this digest."""

    name: str
    digest: str


class PullModel(Command):
    """Reported in ``OperationReported``; running it again goes on with what is there."""

    operation_id: str
    name: str
    insecure: bool = False


class PushModel(Command):
    operation_id: str
    name: str
    insecure: bool = False


class CreateModel(Command):
    """``None`` and empty leave what the base model has. ``files`` and ``adapters`` map relative paths to digests."""

    operation_id: str
    name: str
    base: str = Field("", description="Ollama's ``from``: a model name; pulled if it is not here")
    files: dict[str, str] = {}
    adapters: dict[str, str] = {}
    template: str | None = None
    system: str | None = None
    license: tuple[str, ...] = ()
    parameters: dict[str, Any] = {}
    messages: tuple[ChatMessage, ...] = ()
    quantize: str = ""
    requires: str = ""


class OperationReported(Event):
    """What a pull, push or create has to tell since the last time. ``finished`` comes once, error or not."""

    operation_id: str
    progress: tuple[Progress, ...] = ()
    finished: bool = False
    error: Failure | None = None


class ModelChanged(Event):
    """The name points to something else now, or to nothing."""

    name: str
    organization_id: str = Field("", description="for whom; empty: for all, it is or was shared")


class ReplicasRequested(Event):
    """These nodes have something to fetch: their workers report at once, to be told what."""

    nodes: tuple[str, ...]


class ExportUser(Query[ExportedRows]):
    """The models that this user created."""

    user_id: str
    organization_id: str | None = Field(None, description="only what belongs to it; null: to any")
