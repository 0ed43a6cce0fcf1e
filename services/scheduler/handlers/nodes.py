"""Machines."""

from libs.common.bus.base import Handlers
from libs.common.contracts.paging import Page
from libs.common.contracts.scheduler.nodes import (
    DeleteNode,
    DrainNode,
    GetNode,
    GetNodeHealth,
    ListNodes,
    Node,
    NodeHealth,
    NodeStateChanged,
    UpdateNode,
)
from services.scheduler import nodes
from services.scheduler.context import Context

handlers = Handlers("scheduler")


@handlers.on(ListNodes)
async def list_nodes(query: ListNodes, ctx: Context) -> Page[Node]:
    return await nodes.list_nodes(ctx, query)


@handlers.on(GetNode)
async def get_node(query: GetNode, ctx: Context) -> Node:
    return await nodes.get(ctx, query.node)


@handlers.on(GetNodeHealth)
async def get_node_health(query: GetNodeHealth, ctx: Context) -> NodeHealth:
    return await nodes.health(ctx, query.node)


@handlers.on(UpdateNode)
async def update_node(query: UpdateNode, ctx: Context) -> Node:
    return await nodes.update(ctx, query)


@handlers.on(DrainNode)
async def drain_node(query: DrainNode, ctx: Context) -> Node:
    return await nodes.drain(ctx, query.node, query.draining)


@handlers.on(DeleteNode)
async def delete_node(query: DeleteNode, ctx: Context) -> None:
    await nodes.delete(ctx, query.node)


@handlers.on(NodeStateChanged, every_replica=True)
async def node_state_changed(event: NodeStateChanged, ctx: Context) -> None:
    nodes.hear(ctx, event)
