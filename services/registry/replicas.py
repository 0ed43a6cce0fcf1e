"""Which nodes have which models: nodes report what is on their disks and are told what to fetch and what to drop."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import structlog

from libs.common import actor, peer_token
from libs.common.contracts.permissions import OPERATING_ORGANIZATION
from libs.common.contracts.registry import (
    BlobLocation,
    BlobPeer,
    CachePlan,
    Replica,
    ReplicasRequested,
    ReportCache,
)
from libs.common.database import EVERY_ORGANIZATION, Transaction
from libs.common.errors import Forbidden, InvalidRequest, ModelNotFound, Unavailable
from services.registry import catalog, names
from services.registry.context import Context
from services.registry.store import replicas as store
from services.registry.store.replicas import StoredNode, StoredReplica

log = structlog.get_logger(__name__)

SILENT_SECONDS: Final = 90.0
"""Three reports missed: nothing is asked of this worker any more."""

MOST_PEERS: Final = 4

_DIGEST: Final = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


async def locate(ctx: Context, digest: str, asker: str) -> BlobLocation:
    """Where a blob is, for the node that asks: peers come first. Raises ``InvalidRequest`` and ``NotFound``."""
    location = await catalog.locate(ctx, digest)
    async with ctx.db.transaction() as tx:
        peers = await store.find_peers(tx, digest, asker, SILENT_SECONDS, MOST_PEERS)
    named = (BlobPeer(url=f"{peer.url}/blobs/{digest}", token=peer_token.issue(peer.key, digest)) for peer in peers)
    return location.model_copy(update={"peers": tuple(named)})


async def take_report(ctx: Context, report: ReportCache) -> CachePlan:
    """What the node should do now. A node that does not do it gets the same answer next time."""
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await store.lock_node(tx, report.node)
        await store.save_peer(tx, report.worker_id, report.node, report.peer_url, report.peer_key)
        await store.forget_gone(tx)
        await store.save_blobs(tx, report.node, report.blobs)
        await store.refresh(tx, report.node)
        return CachePlan(
            fetch=tuple(await store.blobs_to_fetch(tx, report.node)),
            drop=tuple(await store.blobs_to_drop(tx, report.node)),
        )


async def replicate(ctx: Context, model: str, count: int) -> tuple[Replica, ...]:
    """See that so many nodes have the model.

    Raises ``ModelNotFound``, ``InvalidRequest``, and ``Forbidden`` for one of another organization: how much of the
    nodes' disks a shared model takes is for its own to say.
    """
    digest = await _current_digest(ctx, model, own=True)
    async with ctx.db.transaction() as tx:
        nodes = choose(await store.list_nodes(tx, digest, SILENT_SECONDS), count)
        await store.want(tx, digest, nodes)
        replicas = await _list(tx, digest)
    try:
        await ctx.bus.publish(ReplicasRequested(nodes=tuple(nodes)))
    except Unavailable:
        log.warning("could not tell nodes of new replicas; they hear of them when they report", nodes=nodes)
    return replicas


async def list_replicas(ctx: Context, model: str) -> tuple[Replica, ...]:
    """Also those that a deleted model had, by its digest. Raises ``ModelNotFound``."""
    digest = await _known_digest(ctx, model)
    async with ctx.db.transaction() as tx:
        return await _list(tx, digest)


def choose(nodes: Sequence[StoredNode], count: int) -> list[str]:
    """Nodes that have it or get it already, then those that cache least. Raises ``InvalidRequest``. Pure."""
    if count > len(nodes):
        raise InvalidRequest(f"{count} replicas were asked for, but the nodes are too few: {len(nodes)}")
    order = ("ready", "syncing", "failed", None)
    ranked = sorted(nodes, key=lambda node: (order.index(node.state), node.cached_bytes, node.node))
    return [node.node for node in ranked[:count]]


async def _current_digest(ctx: Context, model: str, *, own: bool) -> str:
    """Of a model that has files of ours. Raises ``ModelNotFound``, ``InvalidRequest``; if ``own``, ``Forbidden``."""
    if match := _DIGEST.fullmatch(model):
        async with ctx.db.transaction() as tx:
            seen = await store.models_seen(tx, match[1])
        if not seen:
            raise ModelNotFound(f"model '{model}' not found")
        if own and not any(seen):
            raise Forbidden(f"model '{model}' belongs to another organization, which shares it")
        return match[1]
    found = await catalog.find(ctx, names.parse(model))
    if found is None:
        await catalog.find_virtual(ctx, model, ctx.virtual_models.resolve)
        raise InvalidRequest(f"model '{model}' has no files to replicate")
    if own:
        catalog.check_own(found)
    return found.digest


async def _known_digest(ctx: Context, model: str) -> str:
    """For who runs the nodes, also of a model that is gone. What is on them because of others is theirs."""
    match = _DIGEST.fullmatch(model)
    if match and actor.current().organization_id == OPERATING_ORGANIZATION:
        async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
            if await store.was_replicated(tx, match[1]) and not await store.models_seen(tx, match[1]):
                return match[1]
    return await _current_digest(ctx, model, own=False)


async def _list(tx: Transaction, digest: str) -> tuple[Replica, ...]:
    return tuple(_replica(stored) for stored in await store.list_replicas(tx, digest))


def _replica(stored: StoredReplica) -> Replica:
    return Replica(
        node=stored.node,
        state=stored.state,
        size=stored.size,
        completed=stored.completed,
        health=round(stored.health, 3),
        verified_at=_seconds(stored.verified_at),
        heard_at=_seconds(stored.heard_at),
        error=stored.error,
    )


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
