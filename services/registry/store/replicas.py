"""SQL of replicas: what nodes report, and what follows from it."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from psycopg.rows import class_row

from libs.common.contracts.registry import CachedBlob
from libs.common.database import Transaction
from services.registry.layers import ADAPTER_TYPE, MODEL_TYPE, PROJECTOR_TYPE

NEEDED_BY_WORKERS: Final = [MODEL_TYPE, PROJECTOR_TYPE, ADAPTER_TYPE]
"""Media types of the layers that are files to a worker; what the others say travels in the ModelRef."""


@dataclass(frozen=True)
class StoredReplica:
    node: str
    state: Literal["syncing", "ready", "failed", "deleted"]
    size: int
    completed: int
    health: float
    verified_at: datetime | None
    heard_at: datetime | None
    error: str


@dataclass(frozen=True)
class StoredPeer:
    url: str
    key: str


@dataclass(frozen=True)
class StoredNode:
    """A node that can be given replicas: how many bytes it caches, and what it has of the model asked about."""

    node: str
    cached_bytes: int
    state: str | None


async def lock_node(tx: Transaction, node: str) -> None:
    """Until the transaction ends nobody else saves what this node has."""
    await tx.execute("select pg_advisory_xact_lock(hashtext('node ' || %s))", [node])


async def save_peer(tx: Transaction, worker_id: str, node: str, url: str, key: str) -> None:
    await tx.execute(
        """
        insert into peers (worker_id, node, url, key) values (%s, %s, %s, %s)
        on conflict (worker_id) do update
        set node = excluded.node, url = excluded.url, key = excluded.key, heard_at = now()
        """,
        [worker_id, node, url, key],
    )


async def forget_gone(tx: Transaction) -> None:
    """Workers silent for a day whose node has a newer one, for each start makes one; nodes silent for a month."""
    await tx.execute(
        """
        with forgotten as (
            delete from peers where heard_at < now() - interval '30 days' or (
                heard_at < now() - interval '1 day' and exists (
                    select from peers as newer where newer.node = peers.node and newer.heard_at > peers.heard_at
                )
            ) returning node
        ), gone as (
            select node from forgotten except select node from peers where heard_at >= now() - interval '30 days'
        ), dropped as (
            delete from cached_blobs where node in (select node from gone)
        )
        delete from model_replicas where node in (select node from gone)
        """
    )


async def save_blobs(tx: Transaction, node: str, blobs: Sequence[CachedBlob]) -> None:
    """These and no others. A verification moves the health halfway to 1, a damage halfway to 0."""
    await tx.execute(
        "delete from cached_blobs where node = %s and digest <> all(%s)", [node, [blob.digest for blob in blobs]]
    )
    await tx.execute(
        """
        insert into cached_blobs as known (node, digest, size, completed, verified_at, damaged_at, error, health)
        select %s, digest, size, completed, to_timestamp(verified_at), to_timestamp(damaged_at), error,
               case when damaged_at is null then 1 else 0.5 end
        from jsonb_to_recordset(%s) as reported (
            digest text, size bigint, completed bigint, verified_at float8, damaged_at float8, error text
        )
        on conflict (node, digest) do update set
            size = excluded.size, completed = excluded.completed, verified_at = excluded.verified_at,
            damaged_at = excluded.damaged_at, error = excluded.error,
            health = case
                when excluded.damaged_at > coalesce(known.damaged_at, '-infinity') then known.health / 2
                when excluded.verified_at > coalesce(known.verified_at, '-infinity') then (known.health + 1) / 2
                else known.health
            end
        where (excluded.size, excluded.completed, excluded.verified_at, excluded.damaged_at, excluded.error)
            is distinct from (known.size, known.completed, known.verified_at, known.damaged_at, known.error)
        """,
        [node, json.dumps([blob.model_dump() for blob in blobs])],
    )


async def refresh(tx: Transaction, node: str) -> None:
    """Bring the node's replicas up to date with its blobs and with the models there are."""
    await tx.execute(
        """
        insert into model_replicas as known
            (model_digest, node, state, size, completed, health, verified_at, error)
        select needed.model_digest, %(node)s,
               case when bool_and(cached.verified_at is not null) then 'ready'
                    when bool_or(cached.verified_at is null and (cached.damaged_at is not null or cached.error <> ''))
                    then 'failed' else 'syncing' end,
               sum(blobs.size), sum(coalesce(cached.completed, 0)), min(coalesce(cached.health, 1)),
               case when bool_and(cached.verified_at is not null) then min(cached.verified_at) end,
               coalesce(max(cached.error), '')
        from (
            select distinct models.digest as model_digest, layers.digest
            from models join model_layers as layers on layers.model_id = models.id
            where layers.media_type = any(%(media_types)s)
        ) as needed
        join blobs on blobs.digest = needed.digest
        left join cached_blobs as cached on cached.node = %(node)s and cached.digest = needed.digest
        group by needed.model_digest
        having count(cached.digest) > 0 or exists (
            select from model_replicas
            where model_digest = needed.model_digest and node = %(node)s and wanted
        )
        on conflict (model_digest, node) do update set
            state = excluded.state, size = excluded.size, completed = excluded.completed, health = excluded.health,
            verified_at = excluded.verified_at, error = excluded.error, changed_at = now()
        where (excluded.state, excluded.size, excluded.completed, excluded.health, excluded.verified_at, excluded.error)
            is distinct from (known.state, known.size, known.completed, known.health, known.verified_at, known.error)
        """,
        {"node": node, "media_types": NEEDED_BY_WORKERS},
    )
    await _mark_deleted(tx, node)


async def _mark_deleted(tx: Transaction, node: str) -> None:
    """Of models that are gone, and of files that are gone and that nobody asked for."""
    await tx.execute(
        """
        update model_replicas set state = 'deleted', wanted = false, completed = 0, verified_at = null, error = '',
            changed_at = now()
        where node = %(node)s and state <> 'deleted' and not exists (
            select from models join model_layers as layers on layers.model_id = models.id
            left join cached_blobs as cached on cached.node = %(node)s and cached.digest = layers.digest
            where models.digest = model_digest and layers.media_type = any(%(media_types)s)
              and (wanted or cached.digest is not null)
        )
        """,
        {"node": node, "media_types": NEEDED_BY_WORKERS},
    )


async def blobs_to_fetch(tx: Transaction, node: str) -> list[str]:
    """What is missing of replicas that were asked for, and what was found damaged."""
    rows = await tx.execute(
        """
        select distinct layers.digest
        from model_replicas as replicas
        join models on models.digest = replicas.model_digest
        join model_layers as layers on layers.model_id = models.id
        left join cached_blobs as cached on cached.node = replicas.node and cached.digest = layers.digest
        where replicas.node = %s and layers.media_type = any(%s) and cached.verified_at is null
          and (replicas.wanted or cached.damaged_at is not null)
        order by layers.digest
        """,
        [node, NEEDED_BY_WORKERS],
    )
    return [str(digest) for (digest,) in await rows.fetchall()]


async def blobs_to_drop(tx: Transaction, node: str) -> list[str]:
    rows = await tx.execute(
        """
        select digest from cached_blobs as cached where node = %s
          and not exists (select from model_layers where model_layers.digest = cached.digest)
        order by digest
        """,
        [node],
    )
    return [str(digest) for (digest,) in await rows.fetchall()]


async def find_peers(tx: Transaction, digest: str, asker: str, silent_seconds: float, most: int) -> list[StoredPeer]:
    """Workers of other nodes that have the blob, the healthiest first, equals in any order.

    Of those that were started one after the other at the same address, only the last one is there.
    """
    async with tx.cursor(row_factory=class_row(StoredPeer)) as cursor:
        await cursor.execute(
            """
            select url, key from (
                select distinct on (url) url, key, health from peers join cached_blobs using (node)
                where digest = %s and verified_at is not null and node <> %s
                  and heard_at > now() - make_interval(secs => %s)
                order by url, heard_at desc
            ) as latest order by health desc, random() limit %s
            """,
            [digest, asker, silent_seconds, most],
        )
        return await cursor.fetchall()


async def models_seen(tx: Transaction, digest: str) -> list[bool]:
    """For each model of this digest that the transaction sees, whether it is the organization's own."""
    rows = await tx.execute("select sees(organization_id) from models where digest = %s", [digest])
    return [bool(own) for (own,) in await rows.fetchall()]


async def was_replicated(tx: Transaction, digest: str) -> bool:
    rows = await tx.execute("select from model_replicas where model_digest = %s limit 1", [digest])
    return await rows.fetchone() is not None


async def list_nodes(tx: Transaction, model_digest: str, silent_seconds: float) -> list[StoredNode]:
    async with tx.cursor(row_factory=class_row(StoredNode)) as cursor:
        await cursor.execute(
            """
            select node, coalesce(
                       (select sum(completed) from cached_blobs where cached_blobs.node = alive.node), 0
                   )::bigint as cached_bytes,
                   (select state from model_replicas
                    where model_digest = %s and model_replicas.node = alive.node and state <> 'deleted') as state
            from (
                select distinct node from peers where heard_at > now() - make_interval(secs => %s)
            ) as alive
            """,
            [model_digest, silent_seconds],
        )
        return await cursor.fetchall()


async def want(tx: Transaction, model_digest: str, nodes: Collection[str]) -> None:
    """Ask for replicas; those that are there or on their way stay as they are."""
    await tx.execute(
        """
        insert into model_replicas (model_digest, node, state, wanted, size, completed)
        select %(digest)s, node, 'syncing', true, needed.size, 0
        from unnest(%(nodes)s::text[]) as node, (
            select coalesce(sum(size), 0) as size from (
                select distinct blobs.digest, blobs.size
                from models join model_layers as layers on layers.model_id = models.id
                join blobs on blobs.digest = layers.digest
                where models.digest = %(digest)s and layers.media_type = any(%(media_types)s)
            ) as files
        ) as needed
        on conflict (model_digest, node) do update set wanted = true,
            state = case when model_replicas.state = 'deleted' then 'syncing' else model_replicas.state end
        """,
        {"digest": model_digest, "nodes": list(nodes), "media_types": NEEDED_BY_WORKERS},
    )


async def list_replicas(tx: Transaction, model_digest: str) -> list[StoredReplica]:
    async with tx.cursor(row_factory=class_row(StoredReplica)) as cursor:
        await cursor.execute(
            """
            select node, state, size, completed, health, verified_at, error,
                   (select max(heard_at) from peers where peers.node = replicas.node) as heard_at
            from model_replicas as replicas where model_digest = %s order by node
            """,
            [model_digest],
        )
        return await cursor.fetchall()
