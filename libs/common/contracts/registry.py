"""What the registry answers and announces."""

from typing import Any

from libs.common.contracts.inference import ModelDetails, ModelRef
from libs.common.contracts.message import Event, Query, Value


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
    weights: str | None = None
    tensors: tuple[dict[str, Any], ...] = ()


class BlobLocation(Value):
    """Where a blob's bytes are: a range-request URL and, for a process on the same disk, its path."""

    url: str
    path: str
    size: int


class ResolveModel(Query[ModelRef]):
    """``ModelNotFound`` if there is none of this name; ``InvalidModelName`` if it is not a name."""

    name: str


class ListModels(Query[tuple[ModelSummary, ...]]):
    """Newest first."""


class DescribeModel(Query[ModelDescription]):
    name: str
    verbose: bool = False


class LocateBlob(Query[BlobLocation]):
    """``NotFound`` if the registry has no such blob."""

    digest: str


class ModelChanged(Event):
    """The name points to something else now, or to nothing."""

    name: str
