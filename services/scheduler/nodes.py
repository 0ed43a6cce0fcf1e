"""Machines: what their workers say of them, and what people want of them."""

import asyncio
import time
from collections.abc import Iterator
from typing import Final

import structlog

from libs.common import outbox
from libs.common.contracts.paging import Page
from libs.common.contracts.scheduler.nodes import (
    ListNodes,
    Node,
    NodeHealth,
    NodeState,
    NodeStateChanged,
    UpdateNode,
    WorkerHealth,
)
from libs.common.database import EVERY_ORGANIZATION
from libs.common.errors import Conflict, NotFound, PreconditionFailed, Unavailable
from services.scheduler.context import Context
from services.scheduler.fleet import Worker
from services.scheduler.newest import newest
from services.scheduler.store import nodes as node_store
from services.scheduler.store.nodes import NodeRow, Report

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 1.0
REPORT_SECONDS: Final = 30.0
"""A node about which there is no news is written down this often; as often we read again which of them drain."""


async def keep(ctx: Context) -> None:
    """Background loop: know which nodes drain, and write down what is heard of all of them, rarely."""
    written: dict[str, tuple[float, bool]] = {}
    read_at = float("-inf")
    while True:
        now = time.monotonic()
        try:
            if now - read_at > REPORT_SECONDS:
                await read_draining(ctx)
                read_at = now
            await write_reports(ctx, written, now)
        except Unavailable as error:
            log.warning("nodes are not written down", reason=error.message)
        await asyncio.sleep(LOOK_SECONDS)


async def read_draining(ctx: Context) -> None:
    """What an event said meanwhile is younger than what we read."""
    before = ctx.fleet.draining_nodes
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        draining = await node_store.draining_nodes(tx)
    if ctx.fleet.draining_nodes == before and draining != before:
        ctx.fleet.drain(draining)
        ctx.wake.set()


def hear(ctx: Context, changed: NodeStateChanged) -> None:
    others = ctx.fleet.draining_nodes - {changed.node}
    ctx.fleet.drain(others | {changed.node} if changed.draining else others)
    ctx.wake.set()


async def write_reports(ctx: Context, written: dict[str, tuple[float, bool]], now: float) -> None:
    """``written``: by node, when it was written last, and whether it was gone; of this process alone."""
    due = [
        report
        for report in _reports(ctx)
        if report.node not in written
        or written[report.node][1] != report.gone
        or (not report.gone and now - written[report.node][0] > REPORT_SECONDS)
    ]
    if not due:
        return
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await node_store.write_reports(tx, due)
    written.update({report.node: (now, report.gone) for report in due})


def _reports(ctx: Context) -> Iterator[Report]:
    heard_at = time.time()
    live: dict[str, list[Worker]] = {}
    for worker in ctx.fleet:
        live.setdefault(worker.heartbeat.node, []).append(worker)
    for node, workers in live.items():
        newest_beat = max((worker.heartbeat for worker in workers), key=lambda beat: beat.sent_at)
        engines: list[str] = sorted({engine for worker in workers for engine in worker.heartbeat.engines})
        yield Report(node, False, engines, newest_beat.cpus, newest_beat.memory_bytes, heard_at)
    for node in ctx.fleet.said_goodbye - live.keys():
        yield Report(node, True, [], 0, 0, heard_at)


async def list_nodes(ctx: Context, query: ListNodes) -> Page[Node]:
    async with ctx.db.transaction() as tx:
        rows = await node_store.list_nodes(tx)
    nodes = [node for node in (_shown(ctx, row) for row in rows) if _matches(node, query)]
    return newest(nodes, query.paging, lambda node: (node.first_heard_at, node.id))


def _matches(node: Node, query: ListNodes) -> bool:
    label, _, value = (query.label or "").partition("=")
    return (
        query.state in (None, node.state)
        and query.region in (None, node.region)
        and query.zone in (None, node.zone)
        and (not label or (label in node.labels and (not value or node.labels[label] == value)))
    )


async def get(ctx: Context, node: str) -> Node:
    """Raises ``NotFound``."""
    return _shown(ctx, await _row(ctx, node))


async def _row(ctx: Context, node: str) -> NodeRow:
    async with ctx.db.transaction() as tx:
        row = await node_store.get_node(tx, node)
    if row is None:
        raise NotFound("node not found")
    return row


async def update(ctx: Context, query: UpdateNode) -> Node:
    """Raises ``NotFound`` and ``PreconditionFailed``."""
    async with ctx.db.transaction() as tx:
        updated = await node_store.update_node(
            tx, query.node, region=query.region, zone=query.zone, labels=query.labels, expected=query.expected
        )
    node = await get(ctx, query.node)
    if not updated:
        raise PreconditionFailed
    return node


async def drain(ctx: Context, node: str, draining: bool) -> Node:
    """What runs there goes on. This replica knows it at once, others within a second. Raises ``NotFound``."""
    await _row(ctx, node)
    changed = NodeStateChanged(node=node, draining=draining)
    async with ctx.db.transaction() as tx:
        await node_store.set_draining(tx, node, draining)
        await outbox.stage(tx, changed)
    hear(ctx, changed)
    return await get(ctx, node)


async def delete(ctx: Context, node: str) -> None:
    """Raises ``NotFound``, and ``Conflict`` while its workers are heard."""
    if ctx.fleet.of_node(node):
        raise Conflict("the node has workers that run: stop them first")
    async with ctx.db.transaction() as tx:
        if not await node_store.delete_node(tx, node):
            raise NotFound("node not found")
        await outbox.stage(tx, NodeStateChanged(node=node, draining=False))


async def health(ctx: Context, node: str) -> NodeHealth:
    """Raises ``NotFound``."""
    row, now = await _row(ctx, node), time.monotonic()
    workers = tuple(
        WorkerHealth(
            id=worker.heartbeat.worker_id,
            state=_worker_state(worker),
            heard_seconds_ago=round(max(0.0, now - worker.heard_at), 3),
            slots=worker.heartbeat.slots,
            running=len(worker.grants),
            models=tuple(loaded.name for loaded in worker.heartbeat.loaded),
        )
        for worker in ctx.fleet.of_node(node)
    )
    shown = _shown(ctx, row)
    healthy = any(worker.state != "unreachable" for worker in workers)
    return NodeHealth(id=node, state=shown.state, healthy=healthy, last_heard_at=shown.last_heard_at, workers=workers)


def _worker_state(worker: Worker) -> str:
    if worker.unreachable:
        return "unreachable"
    return "active" if worker.heartbeat.state == "active" else "draining"


def _shown(ctx: Context, row: NodeRow) -> Node:
    workers = ctx.fleet.of_node(row.id)
    heard_at = max((time.time() - (time.monotonic() - worker.heard_at) for worker in workers), default=row.heard_at)
    return Node(
        id=row.id,
        state=_state(row, workers),
        draining=row.draining,
        region=row.region or next((each.heartbeat.region for each in workers if each.heartbeat.region), ""),
        zone=row.zone or next((each.heartbeat.zone for each in workers if each.heartbeat.zone), ""),
        labels=row.labels,
        workers=len(workers),
        slots=sum(worker.heartbeat.slots for worker in workers),
        running=sum(len(worker.grants) for worker in workers),
        engines=tuple(row.engines),
        models=tuple(sorted({loaded.name for worker in workers for loaded in worker.heartbeat.loaded})),
        cpus=row.cpus,
        memory_bytes=row.memory_bytes,
        first_heard_at=row.first_heard_at,
        last_heard_at=heard_at,
        version=row.version,
    )


def _state(row: NodeRow, workers: list[Worker]) -> NodeState:
    if not workers:
        return "offline" if row.gone else "failed"
    if row.draining or all(worker.heartbeat.state == "draining" for worker in workers):
        return "draining"
    return "active"
