"""Machines that run models. Of the whole installation."""

from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import ConfigDict, Field
from starlette.responses import Response

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.paging import Page
from libs.common.contracts.permissions import Permission
from libs.common.contracts.scheduler.nodes import (
    DeleteNode,
    DrainNode,
    GetNode,
    GetNodeHealth,
    ListNodes,
    Node,
    NodeHealth,
    NodeState,
    UpdateNode,
)
from services.gateway.api.platform import etag
from services.gateway.api.platform.body import Body
from services.gateway.api.platform.caller import Ctx, needs
from services.gateway.api.platform.etag import IfMatch
from services.gateway.api.platform.pages import Paging
from services.gateway.api.platform.text import NO_NUL

router = APIRouter(prefix="/nodes", tags=["nodes"])

Reader = Annotated[Identity, needs(Permission.NODE_READ)]
Manager = Annotated[Identity, needs(Permission.NODE_MANAGE)]

NodeId = Annotated[str, Path(max_length=255, pattern=NO_NUL, description="the name that its workers report")]
Place = Annotated[str | None, Query(max_length=100, pattern=NO_NUL)]
LabelName = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")]
LabelValue = Annotated[str, Field(max_length=200, pattern=NO_NUL)]


class NodeSettings(Body):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"region": "eu", "zone": "eu-1", "labels": {"gpu": "l40s"}}]}
    )

    region: str = Field("", max_length=100, pattern=NO_NUL)
    zone: str = Field("", max_length=100, pattern=NO_NUL)
    labels: dict[LabelName, LabelValue] = Field({}, max_length=50)


@router.get("")
async def nodes(
    ctx: Ctx,
    _caller: Reader,
    paging: Paging,
    *,
    state: NodeState | None = None,
    region: Place = None,
    zone: Place = None,
    label: Annotated[
        str | None, Query(max_length=300, pattern=NO_NUL, description="those that have it: name, or name=value")
    ] = None,
) -> Page[Node]:
    """Newest first, also those that are not heard now."""
    return await ctx.bus.ask(ListNodes(state=state, region=region, zone=zone, label=label, paging=paging))


@router.get("/{node_id}")
async def node(node_id: NodeId, ctx: Ctx, response: Response, _caller: Reader) -> Node:
    return etag.tagged(response, await ctx.bus.ask(GetNode(node=node_id)))


@router.put("/{node_id}")
async def replace(
    node_id: NodeId, body: NodeSettings, ctx: Ctx, response: Response, _caller: Manager, expected: IfMatch
) -> Node:
    """Where it is and how it is labelled. What is absent is empty."""
    return etag.tagged(
        response,
        await ctx.bus.ask(
            UpdateNode(node=node_id, region=body.region, zone=body.zone, labels=body.labels, expected=expected)
        ),
    )


@router.delete("/{node_id}", status_code=204)
async def forget(node_id: NodeId, ctx: Ctx, _caller: Manager) -> None:
    """409 while its workers are heard. A node comes back as soon as a worker reports its name."""
    await ctx.bus.ask(DeleteNode(node=node_id))


@router.get("/{node_id}/health")
async def health(node_id: NodeId, ctx: Ctx, _caller: Reader) -> NodeHealth:
    """Each of its workers, and when it was heard."""
    return await ctx.bus.ask(GetNodeHealth(node=node_id))


@router.post("/{node_id}/drain")
async def drain(node_id: NodeId, ctx: Ctx, response: Response, _caller: Manager) -> Node:
    """It gets nothing new; what runs there runs on. Ready to be stopped when `running` is 0."""
    return etag.tagged(response, await ctx.bus.ask(DrainNode(node=node_id, draining=True)))


@router.post("/{node_id}/resume")
async def resume(node_id: NodeId, ctx: Ctx, response: Response, _caller: Manager) -> Node:
    """It gets work again."""
    return etag.tagged(response, await ctx.bus.ask(DrainNode(node=node_id, draining=False)))
