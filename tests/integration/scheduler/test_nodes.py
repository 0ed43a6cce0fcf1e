"""Nodes on a real database: what is heard of them, and what people want of them."""

import asyncio
import time

import pytest

from libs.common.bus.base import Bus
from libs.common.contracts.scheduler.nodes import (
    DeleteNode,
    DrainNode,
    GetNode,
    GetNodeHealth,
    ListNodes,
    Node,
    NodeStateChanged,
    UpdateNode,
)
from libs.common.contracts.worker import WorkerHeartbeat
from libs.common.database import EVERY_ORGANIZATION, Database
from libs.common.errors import Conflict, NotFound, PreconditionFailed
from services.scheduler import nodes
from services.scheduler.context import Context
from services.scheduler.store import nodes as node_store
from services.scheduler.store.nodes import Report
from tests.fixtures.builders import a_heartbeat
from tests.integration.scheduler.conftest import act_for

Written = dict[str, tuple[float, bool]]


async def hear(ctx: Context, *heartbeats: WorkerHeartbeat, written: Written | None = None) -> Written:
    """And write it down, as the background loop does. Returns what it knows to be written."""
    for heartbeat in heartbeats:
        ctx.fleet.hear(heartbeat, time.monotonic())
    known: Written = {} if written is None else written
    await nodes.write_reports(ctx, known, time.monotonic())
    return known


async def update(bus: Bus, **changes: object) -> Node:
    wanted = {"node": "n1", "region": "eu", "zone": "a", "labels": {"gpu": "l40s"}, **changes}
    return await bus.ask(UpdateNode.model_validate(wanted))


async def listed(bus: Bus, **filters: object) -> list[str]:
    return sorted(node.id for node in (await bus.ask(ListNodes.model_validate(filters))).items)


async def test_what_is_heard_is_shown(ctx: Context, bus: Bus) -> None:
    await hear(ctx, a_heartbeat(cpus=8, memory_bytes=10**10), a_heartbeat(worker_id="w2", slots=3))
    node = await bus.ask(GetNode(node="n1"))
    assert (node.state, node.workers, node.slots, node.engines) == ("active", 2, 7, ("echo", "llama_cpp"))
    assert node.last_heard_at == pytest.approx(time.time(), abs=5)
    health = await bus.ask(GetNodeHealth(node="n1"))
    assert health.healthy
    assert {worker.id for worker in health.workers} == {"w1", "w2"}


async def test_where_a_node_stands_its_workers_say_unless_people_do(ctx: Context, bus: Bus) -> None:
    await hear(ctx, a_heartbeat(region="us", zone="b"))
    node = await bus.ask(GetNode(node="n1"))
    assert (node.region, node.zone) == ("us", "b")
    assert await listed(bus, region="us") == ["n1"]
    await update(bus, region="eu", zone="")
    node = await bus.ask(GetNode(node="n1"))
    assert (node.region, node.zone) == ("eu", "b")
    assert await listed(bus, region="us") == []


async def test_nodes_that_left_are_offline_and_silent_ones_failed(ctx: Context, bus: Bus) -> None:
    written = await hear(ctx, a_heartbeat(), a_heartbeat(worker_id="w2", node="n2"))
    await hear(ctx, a_heartbeat(state="offline"), written=written)
    ctx.fleet.remove_silent(time.monotonic() + 10, 3)
    assert (await bus.ask(GetNode(node="n1"))).state == "offline"
    assert (await bus.ask(GetNode(node="n2"))).state == "failed"
    assert not (await bus.ask(GetNodeHealth(node="n2"))).healthy
    await hear(ctx, a_heartbeat(worker_id="w3"), written=written)
    assert (await bus.ask(GetNode(node="n1"))).state == "active"


async def test_unchanged_nodes_are_written_rarely_and_not_audited(ctx: Context) -> None:
    written = await hear(ctx, a_heartbeat())
    at = dict(written)
    await hear(ctx, a_heartbeat(), written=written)
    assert written == at
    written["n1"] = (time.monotonic() - nodes.REPORT_SECONDS - 1, False)
    await hear(ctx, a_heartbeat(), written=written)
    async with ctx.db.transaction() as tx:
        rows = await (await tx.execute("select body ->> 'action' from outbox")).fetchall()
    assert rows == [("nodes.insert",)]


async def test_a_drained_node_gets_nothing_new_until_it_is_resumed(ctx: Context, bus: Bus) -> None:
    await hear(ctx, a_heartbeat())
    node = await bus.ask(DrainNode(node="n1", draining=True))
    assert (node.state, node.draining) == ("draining", True)
    assert [worker.node_drains for worker in ctx.fleet] == [True]
    assert (await bus.ask(DrainNode(node="n1", draining=False))).state == "active"
    assert [worker.node_drains for worker in ctx.fleet] == [False]


async def test_a_replica_that_was_not_asked_hears_of_it(ctx: Context) -> None:
    await hear(ctx, a_heartbeat())
    for draining in (True, False):
        nodes.hear(ctx, NodeStateChanged(node="n1", draining=draining))
        assert [worker.node_drains for worker in ctx.fleet] == [draining]


async def test_a_scheduler_that_starts_reads_which_nodes_drain(ctx: Context, bus: Bus) -> None:
    await hear(ctx, a_heartbeat())
    await bus.ask(DrainNode(node="n1", draining=True))
    ctx.fleet.drain(())  # as one that starts
    await nodes.read_draining(ctx)
    assert ctx.fleet.draining_nodes == {"n1"}
    assert [worker.node_drains for worker in ctx.fleet] == [True]


async def test_every_replica_is_told_that_a_node_drains(ctx: Context, bus: Bus) -> None:
    await hear(ctx, a_heartbeat())
    await bus.ask(DrainNode(node="n1", draining=True))
    async with ctx.db.transaction() as tx:
        staged = await (await tx.execute("select body from outbox where message like 'scheduler.%'")).fetchall()
    assert staged == [({"node": "n1", "draining": True},)]


async def test_settings_are_replaced_if_nobody_was_quicker(ctx: Context, bus: Bus) -> None:
    await hear(ctx, a_heartbeat())
    first = await update(bus)
    assert (first.region, first.zone, first.labels) == ("eu", "a", {"gpu": "l40s"})
    with pytest.raises(PreconditionFailed):
        await update(bus, expected=first.version - 1)
    assert (await update(bus, region="us", labels={}, expected=first.version)).labels == {}


async def test_filters(ctx: Context, bus: Bus) -> None:
    await hear(ctx, a_heartbeat(), a_heartbeat(worker_id="w2", node="n2"))
    await update(bus)
    assert await listed(bus) == ["n1", "n2"]
    assert await listed(bus, region="eu", zone="a", state="active") == ["n1"]
    assert await listed(bus, label="gpu") == await listed(bus, label="gpu=l40s") == ["n1"]
    assert await listed(bus, label="gpu=a100") == await listed(bus, state="failed") == []


async def test_only_nodes_that_are_not_heard_are_forgotten(ctx: Context, bus: Bus) -> None:
    await hear(ctx, a_heartbeat())
    with pytest.raises(Conflict):
        await bus.ask(DeleteNode(node="n1"))
    await hear(ctx, a_heartbeat(state="offline"))
    await bus.ask(DeleteNode(node="n1"))
    assert await listed(bus) == []


@pytest.mark.parametrize(
    "query",
    [
        GetNode(node="x"),
        GetNodeHealth(node="x"),
        DeleteNode(node="x"),
        DrainNode(node="x", draining=True),
        UpdateNode(node="x", region="", zone="", labels={}, expected=1),
    ],
)
async def test_an_unknown_node(bus: Bus, query: GetNode) -> None:
    with pytest.raises(NotFound):
        await bus.ask(query)


async def test_what_people_change_is_audited(ctx: Context, bus: Bus) -> None:
    act_for("default", "ops")
    await hear(ctx, a_heartbeat())
    await update(bus)
    async with ctx.db.transaction() as tx:
        rows = await tx.execute("select body from outbox where body ->> 'action' = 'nodes.update'")
        (event,) = await rows.fetchone() or ({},)
    assert (event["object"], event["user_id"]) == ("n1", "ops")
    assert (event["before"]["region"], event["after"]["region"]) == ("", "eu")


async def test_replicas_that_report_at_once_wait_for_each_other(scheduler_db: Database) -> None:
    reports = [Report(f"n{number}", False, ["echo"], 1, 1, 1.0) for number in range(200)]

    async def write(reports: list[Report]) -> None:
        async with scheduler_db.transaction(EVERY_ORGANIZATION) as tx:
            await node_store.write_reports(tx, reports)

    await asyncio.gather(*(write(reports[:: 1 if turn % 2 else -1]) for turn in range(6)))
