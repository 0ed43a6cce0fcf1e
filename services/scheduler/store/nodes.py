"""The SQL of nodes. They belong to the installation, not to an organization."""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.rows import class_row
from psycopg.sql import SQL
from psycopg.types.json import Json

from libs.common.database import Transaction

MOST_NODES = 10_000


@dataclass(frozen=True)
class Report:
    """What a node's workers say, added up. Times are seconds since the epoch."""

    node: str
    gone: bool
    """The last of them said good-bye."""

    engines: list[str]
    cpus: int
    memory_bytes: int
    heard_at: float


@dataclass(frozen=True)
class NodeRow:
    """What people said of it, and its last report."""

    id: str
    draining: bool
    region: str
    zone: str
    labels: dict[str, str]
    first_heard_at: float
    version: int
    gone: bool
    engines: list[str]
    cpus: int
    memory_bytes: int
    heard_at: float


_SELECT = SQL("""
    select id, draining, region, zone, labels, extract(epoch from first_heard_at)::float8 as first_heard_at, version,
           gone, engines, cpus, memory_bytes, extract(epoch from heard_at)::float8 as heard_at
    from nodes join node_reports on node = id
""")


async def write_reports(tx: Transaction, reports: Sequence[Report]) -> None:
    """Every replica writes its own; the latest stands. A node that was not known is from now on.

    One that is deleted at this moment is left out: its row is locked, or not there. In one order, so that
    replicas which write at once wait, not deadlock.
    """
    reports = sorted(reports, key=lambda report: report.node)
    async with tx.cursor() as cursor:
        await cursor.executemany(
            "insert into nodes (id) values (%s) on conflict (id) do nothing", [[report.node] for report in reports]
        )
        await cursor.executemany(
            """
            insert into node_reports as known (node, gone, engines, cpus, memory_bytes, heard_at)
            select id, %s, %s, %s, %s, to_timestamp(%s) from nodes where id = %s for key share
            on conflict (node) do update set
                gone = excluded.gone, engines = excluded.engines, cpus = excluded.cpus,
                memory_bytes = excluded.memory_bytes, heard_at = excluded.heard_at
            where excluded.heard_at >= known.heard_at
            """,
            [
                (report.gone, report.engines, report.cpus, report.memory_bytes, report.heard_at, report.node)
                for report in reports
            ],
        )


async def list_nodes(tx: Transaction) -> list[NodeRow]:
    """Newest first."""
    async with tx.cursor(row_factory=class_row(NodeRow)) as cursor:
        await cursor.execute(SQL("{} order by first_heard_at desc, id desc limit %s").format(_SELECT), [MOST_NODES])
        return await cursor.fetchall()


async def get_node(tx: Transaction, node: str) -> NodeRow | None:
    async with tx.cursor(row_factory=class_row(NodeRow)) as cursor:
        await cursor.execute(SQL("{} where id = %s").format(_SELECT), [node])
        return await cursor.fetchone()


async def draining_nodes(tx: Transaction) -> set[str]:
    rows = await tx.execute("select id from nodes where draining")
    return {node for (node,) in await rows.fetchall()}


async def update_node(
    tx: Transaction, node: str, *, region: str, zone: str, labels: dict[str, str], expected: int | None
) -> bool:
    """False if there is no such node, or not of the version that is expected."""
    rows = await tx.execute(
        """
        update nodes set region = %s, zone = %s, labels = %s, version = version + 1
        where id = %s and version = coalesce(%s, version)
        """,
        [region, zone, Json(labels), node, expected],
    )
    return rows.rowcount == 1


async def set_draining(tx: Transaction, node: str, draining: bool) -> None:
    await tx.execute(
        "update nodes set draining = %s, version = version + 1 where id = %s and draining <> %s",
        [draining, node, draining],
    )


async def delete_node(tx: Transaction, node: str) -> bool:
    """False if there is no such node."""
    return (await tx.execute("delete from nodes where id = %s", [node])).rowcount == 1
