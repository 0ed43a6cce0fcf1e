"""Machines."""

from typing import Literal

from pydantic import Field

from libs.common.contracts.message import Event, Query, Value
from libs.common.contracts.paging import Page, PageRequest


class NodeStateChanged(Event):
    """A node drains, or takes work again: every scheduler grants accordingly from now on."""

    node: str
    draining: bool


NodeState = Literal["active", "draining", "offline", "failed"]


class Node(Value):
    """A machine with workers. Times are seconds since the epoch."""

    id: str = Field(description="the name its workers report")
    state: NodeState = Field(description="offline: its workers said good-bye; failed: they fell silent")
    draining: bool = Field(description="wanted: it gets no new work until it is resumed")
    region: str = Field("", description="as people say; else as its workers do, while they are heard")
    zone: str = Field("", description="as the region")
    labels: dict[str, str] = {}
    workers: int = 0
    slots: int = Field(0, description="requests its workers run at once")
    running: int = 0
    engines: tuple[str, ...] = ()
    models: tuple[str, ...] = Field((), description="in memory")
    cpus: int = 0
    memory_bytes: int = 0
    first_heard_at: float
    last_heard_at: float
    version: int = 1


class ListNodes(Query[Page[Node]]):
    """Newest first."""

    state: NodeState | None = None
    region: str | None = None
    zone: str | None = None
    label: str | None = Field(None, description="name or name=value")
    paging: PageRequest = PageRequest()


class GetNode(Query[Node]):
    """``NotFound``."""

    node: str


class UpdateNode(Query[Node]):
    """Replaces what people say of a node. ``NotFound``, ``PreconditionFailed``."""

    node: str
    region: str
    zone: str
    labels: dict[str, str]
    expected: int | None = Field(None, description="version")


class DeleteNode(Query[None]):
    """``NotFound``; ``Conflict`` while it is heard. It is back as soon as a worker of that name is."""

    node: str


class DrainNode(Query[Node]):
    """Or, with ``draining`` false, resume it. ``NotFound``."""

    node: str
    draining: bool


class WorkerHealth(Value):
    """A worker process that is heard."""

    id: str
    state: Literal["active", "draining", "unreachable"]
    heard_seconds_ago: float
    slots: int
    running: int
    models: tuple[str, ...] = ()


class NodeHealth(Value):
    id: str
    state: NodeState
    healthy: bool = Field(description="it would take work now, or only drains")
    last_heard_at: float
    workers: tuple[WorkerHealth, ...] = ()


class GetNodeHealth(Query[NodeHealth]):
    """``NotFound``."""

    node: str
