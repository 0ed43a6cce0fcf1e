"""Nodes with caches of their own, a registry on a real database, HTTP between them."""

import hashlib
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from libs.common import actor, peer_token
from libs.common.bus.base import Bus
from libs.common.bus.memory import MemoryBroker
from libs.common.contracts.registry import CachedBlob, ListReplicas, LocateBlob, Replica, ReplicateModel, ReportCache
from libs.common.contracts.registry.models import ChangeModel
from libs.common.errors import Forbidden, InvalidRequest, ModelNotFound
from libs.common.tasks import Tasks
from libs.common.web import HttpServer, create_ops_app
from services.registry import catalog, imports
from services.registry.api import router
from services.registry.context import Context
from services.registry.settings import Settings
from services.registry.store import replicas as store
from services.worker.blobs.files import CHUNK_BYTES
from services.worker.blobs.throttle import Throttle
from tests.fixtures.ports import free_port
from tests.fixtures.replica_node import Node, running_node
from tests.fixtures.suite import eventually
from tests.integration.registry.conftest import BLOB_TOKEN


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a registry that nodes reach over HTTP."""
    return Settings(
        data_dir=tmp_path / "registry",
        blob_token=SecretStr(BLOB_TOKEN),
        public_url=f"http://127.0.0.1:{free_port()}",
    )


@pytest.fixture
async def registry_http(ctx: Context) -> AsyncIterator[None]:
    app = create_ops_app("registry", ctx, None, lambda: None, router)
    port = httpx.URL(ctx.settings.public_url).port
    assert port is not None
    tasks = Tasks()
    async with HttpServer.running(app, "127.0.0.1", port, tasks.start):
        yield


@pytest.fixture
def big_gguf(tiny_bytes: bytes, tmp_path: Path) -> Path:
    """Of more chunks than one."""
    path = tmp_path / "big.gguf"
    path.write_bytes(tiny_bytes + secrets.token_bytes(2 * CHUNK_BYTES))
    return path


@pytest.fixture
async def weights(ctx: Context, big_gguf: Path) -> str:
    """The digest of the file of a model ``big``."""
    await imports.import_gguf(ctx, "big", big_gguf)
    digest = (await catalog.resolve(ctx, "big")).weights
    assert digest is not None
    return digest


@pytest.fixture
async def nodes(
    broker: MemoryBroker, registry_http: None, weights: str, tmp_path: Path
) -> AsyncIterator[tuple[Node, Node]]:
    async with (
        running_node(broker, "a", tmp_path / "a", BLOB_TOKEN) as a,
        running_node(broker, "b", tmp_path / "b", BLOB_TOKEN) as b,
    ):
        yield a, b


async def replicas(bus: Bus, model: str = "big") -> dict[str, Replica]:
    return {replica.node: replica for replica in await bus.ask(ListReplicas(model=model))}


async def until_states(bus: Bus, model: str = "big", **states: str) -> dict[str, Replica]:
    """As soon as these nodes have the model in these states."""

    async def is_so() -> bool:
        found = await replicas(bus, model)
        return {node: found[node].state for node in states if node in found} == states

    await eventually(is_so, f"{model} is {states}")
    return await replicas(bus, model)


def digest_of(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


async def test_a_model_is_replicated_to_so_many_nodes(bus: Bus, nodes: tuple[Node, Node], weights: str) -> None:
    async def both_are_known() -> bool:
        try:
            await bus.ask(ReplicateModel(model="big", count=2))
        except InvalidRequest:
            return False
        return True

    await eventually(both_are_known, "both nodes have reported")
    found = await until_states(bus, a="ready", b="ready")
    for node in nodes:
        assert digest_of(node.files(weights).blob) == weights
        replica = found[node.name]
        assert replica.completed == replica.size == node.files(weights).blob.stat().st_size
        assert replica.health == 1
        assert replica.verified_at is not None
        assert replica.heard_at == pytest.approx(time.time(), abs=60)


async def test_a_peer_is_asked_before_the_registry(
    bus: Bus, nodes: tuple[Node, Node], ctx: Context, weights: str
) -> None:
    a, b = nodes
    await a.cache.fetch(weights)
    await until_states(bus, a="ready")
    original = ctx.blobs.path(weights)
    original.write_bytes(bytes(original.stat().st_size))
    assert digest_of(await b.cache.fetch(weights)) == weights
    await until_states(bus, b="ready")


async def test_a_damaged_replica_is_never_served_and_heals(bus: Bus, nodes: tuple[Node, Node], weights: str) -> None:
    a = nodes[0]
    for node in nodes:
        await node.cache.fetch(weights)
    await until_states(bus, a="ready", b="ready")
    a.damage(weights)
    async with httpx.AsyncClient() as http:
        headers = {
            "Authorization": f"Bearer {peer_token.issue(a.reporter.peer_key, weights)}",
            "Range": f"bytes=0-{CHUNK_BYTES - 1}",
        }
        answer = await http.get(f"{a.reporter.peer_url}/blobs/{weights}", headers=headers)
    assert answer.status_code == 404

    async def has_healed() -> bool:
        replica = (await replicas(bus))["a"]
        return replica.state == "ready" and replica.health < 1

    await eventually(has_healed, "the damaged replica is whole again")
    assert digest_of(a.files(weights).blob) == weights
    assert (await replicas(bus))["b"].health == 1


async def test_the_states_of_a_replica_that_is_damaged(
    bus: Bus, nodes: tuple[Node, Node], ctx: Context, weights: str
) -> None:
    """Nobody has a good copy: it is failed until there is one again."""
    a, _ = nodes
    await a.cache.fetch(weights)
    good = a.files(weights).blob.read_bytes()
    ctx.blobs.path(weights).write_bytes(b"x" * len(good))
    a.damage(weights)
    await a.cache.scrub(weights, Throttle(0))
    failed = await until_states(bus, a="failed")
    assert failed["a"].verified_at is None
    assert failed["a"].completed < failed["a"].size

    async def cannot_heal() -> bool:
        return "not those of their digest" in (await replicas(bus))["a"].error

    await eventually(cannot_heal, "it has tried in vain")
    ctx.blobs.path(weights).write_bytes(good)
    await a.cache.fetch(weights)
    await until_states(bus, a="ready")


async def test_deleting_a_model_deletes_its_replicas(
    bus: Bus, nodes: tuple[Node, Node], ctx: Context, weights: str
) -> None:
    a, b = nodes
    for node in nodes:
        await node.cache.fetch(weights)
    await until_states(bus, a="ready", b="ready")
    digest = (await catalog.resolve(ctx, "big")).digest
    b.in_use.add(weights)
    await catalog.delete(ctx, "big")
    await until_states(bus, digest, a="deleted", b="deleted")

    async def is_gone() -> bool:
        return not a.files(weights).blob.exists()

    await eventually(is_gone, "the file is deleted")
    assert b.files(weights).blob.exists()
    b.in_use.clear()
    await b.replicas.report()
    assert not b.files(weights).blob.exists()
    with pytest.raises(ModelNotFound):
        await replicas(bus, "big")


async def test_a_layer_that_another_model_has_stays(
    bus: Bus, nodes: tuple[Node, Node], ctx: Context, weights: str
) -> None:
    a, _ = nodes
    await a.cache.fetch(weights)
    await catalog.copy(ctx, "big", "copy")
    await catalog.delete(ctx, "big")
    await a.replicas.report()
    assert a.files(weights).blob.exists()
    await until_states(bus, "copy", a="ready")


async def test_more_replicas_than_nodes_is_refused(bus: Bus, nodes: tuple[Node, Node]) -> None:
    for node in nodes:
        await node.replicas.report()
    with pytest.raises(InvalidRequest, match="3 replicas were asked for, but the nodes are too few: 2"):
        await bus.ask(ReplicateModel(model="big", count=3))
    for unknown in ("nonsense", "0" * 64):
        for query in (ReplicateModel(model=unknown, count=1), ListReplicas(model=unknown)):
            with pytest.raises(ModelNotFound):
                await bus.ask(query)


async def test_a_shared_model_is_replicated_by_its_own(bus: Bus, nodes: tuple[Node, Node], ctx: Context) -> None:
    await nodes[0].replicas.report()
    await bus.ask(ChangeModel(name="big", tags=(), description="", shared=True))
    digest = (await catalog.resolve(ctx, "big")).digest
    for model in ("big", digest):
        with actor.acting(actor.Actor(organization_id="acme")), pytest.raises(Forbidden):
            await bus.ask(ReplicateModel(model=model, count=1))
    [replica] = await bus.ask(ReplicateModel(model=digest, count=1))
    assert replica.node in ("a", "b")


async def test_a_digest_tells_nobody_what_others_have_on_nodes(
    bus: Bus, nodes: tuple[Node, Node], ctx: Context, weights: str
) -> None:
    await nodes[0].cache.fetch(weights)
    await until_states(bus, a="ready")
    digest = (await catalog.resolve(ctx, "big")).digest
    with actor.acting(actor.Actor(organization_id="acme")), pytest.raises(ModelNotFound):
        await bus.ask(ListReplicas(model=digest))
    await catalog.delete(ctx, "big")
    with actor.acting(actor.Actor(organization_id="acme")), pytest.raises(ModelNotFound):
        await bus.ask(ListReplicas(model=digest))
    await until_states(bus, digest, a="deleted")


async def test_a_replica_that_cannot_be_fetched_says_why(
    bus: Bus, nodes: tuple[Node, Node], ctx: Context, weights: str
) -> None:
    for node in nodes:
        await node.replicas.report()
    ctx.blobs.path(weights).unlink()
    [asked] = await bus.ask(ReplicateModel(model="big", count=1))
    assert asked.state == "syncing"
    failed = await until_states(bus, **{asked.node: "failed"})
    assert "does not have" in failed[asked.node].error


async def test_peers_are_named_to_others_while_they_are_heard(
    bus: Bus, nodes: tuple[Node, Node], ctx: Context, weights: str
) -> None:
    a, _ = nodes
    await a.cache.fetch(weights)
    await a.replicas.report()
    located = await bus.ask(LocateBlob(digest=weights, node="b"))
    assert [peer.url for peer in located.peers] == [f"{a.reporter.peer_url}/blobs/{weights}"]
    assert peer_token.is_valid(a.reporter.peer_key, located.peers[0].token, weights)
    assert (await bus.ask(LocateBlob(digest=weights, node="a"))).peers == ()
    async with ctx.db.transaction() as tx:
        assert await store.find_peers(tx, weights, "b", 0, 4) == []


async def test_a_worker_that_was_started_again_is_named_once_and_as_it_is_now(
    bus: Bus, nodes: tuple[Node, Node], ctx: Context, weights: str
) -> None:
    a, _ = nodes
    await a.cache.fetch(weights)
    await a.replicas.report()
    async with ctx.db.transaction() as tx:
        for number in range(5):
            await store.save_peer(tx, f"dead-{number}", "a", a.reporter.peer_url, "old key")
        await tx.execute("update peers set heard_at = now() - interval '1 second' where worker_id like 'dead-%'")
        await tx.execute("update peers set heard_at = now() where worker_id not like 'dead-%'")
    [peer] = (await bus.ask(LocateBlob(digest=weights, node="b"))).peers
    assert peer_token.is_valid(a.reporter.peer_key, peer.token, weights)


async def test_a_node_that_is_gone_for_a_month_is_forgotten(bus: Bus, ctx: Context, weights: str) -> None:
    blobs = (CachedBlob(digest=weights, size=1, completed=1, verified_at=time.time()),)
    for name in ("here", "gone"):
        await bus.ask(ReportCache(node=name, worker_id=name, peer_url="http://n", peer_key="key", blobs=blobs))
    for silent, left in (("29 days", {"here", "gone"}), ("31 days", {"here"})):
        async with ctx.db.transaction() as tx:
            await tx.execute("update peers set heard_at = now() - %s::interval where node = 'gone'", [silent])
            await store.forget_gone(tx)
        assert set(await replicas(bus)) == left
    async with ctx.db.transaction() as tx:
        rows = await tx.execute("select distinct node from cached_blobs")
        assert await rows.fetchall() == [("here",)]


async def test_of_the_workers_a_node_had_the_last_is_kept(ctx: Context) -> None:
    async with ctx.db.transaction() as tx:
        for worker in ("first", "last"):
            await store.save_peer(tx, worker, "n", "http://n", "key")
        await tx.execute("update peers set heard_at = now() - interval '2 days'")
        await tx.execute("update peers set heard_at = now() - interval '3 days' where worker_id = 'first'")
        await store.forget_gone(tx)
        rows = await tx.execute("select worker_id from peers")
        assert await rows.fetchall() == [("last",)]
